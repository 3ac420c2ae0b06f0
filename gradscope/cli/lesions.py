"""The verb `lesions`: which branches a network misses, alone and together."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gradscope import figures
from gradscope.cli.measure import Asked, kept, prepared
from gradscope.instruments.batch_norm import batch_norm_layers
from gradscope.instruments.recalibrate import recalibrated
from gradscope.problem import Problem
from gradscope.studies.layer_lesion_study import layer_lesion_study
from gradscope.studies.lesion_study import lesion_study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Closing:
    """What `gradscope lesions` is asked besides: options of the studies, as typed."""

    metric: str
    sets: str
    subsets: int
    greedy: int
    layers: str
    dry_run: bool

    def metrics(self) -> list[str]:
        return [name.strip() for name in self.metric.split(",") if name.strip()]

    def numbers(self) -> list[int] | None:
        """The numbers of branches to close together; None for a spread over all."""
        if self.sets.strip() == "spread":
            return None
        try:
            return [int(part) for part in self.sets.split(",") if part.strip()]
        except ValueError:
            raise ValueError(
                f"--sets takes whole numbers separated by commas, such as 2,4,8, or the word spread, got {self.sets!r}."
            ) from None


def lesions(asked: Asked, closing: Closing) -> None:
    """`gradscope lesions`; with `layers`, or for a plain network of ours, layers become the identity instead."""
    numbers, layers = closing.numbers(), closing.layers
    if not layers and asked.model.partition(":")[0] in ("plain", "vgg", "plain_mlp"):
        layers = "blocks.*"
    if layers and (numbers != [] or closing.greedy):
        raise ValueError(
            f"--sets and --greedy close residual branches together, but layers ({layers}) are replaced one at a time. "
            "Leave one of the two out."
        )
    # What it costs does not depend on the weights, so a dry run does not train.
    asked = replace(asked, epochs=0) if closing.dry_run else asked
    model, data = prepared(asked, labels=closing.metrics() != ["kl"])
    problem = Problem(model, asked.some(data.test))
    calibration = data.train[0][:512]
    shared: dict[str, Any] = {
        "metric": closing.metrics(),
        "calibration": calibration,
        "seed": asked.seed,
        "dry_run": closing.dry_run,
    }
    # Fresh batch-norm statistics normalise nothing, so an untrained network gets those of training images.
    fresh = any(layer.num_batches_tracked == 0 for layer in batch_norm_layers(model))
    with recalibrated(model, [calibration]) if fresh else nullcontext():
        if layers:
            frame = layer_lesion_study(problem, at=layers, **shared)
        else:
            frame = lesion_study(
                problem, sets=numbers, subsets=closing.subsets, greedy=closing.greedy, **shared
            )
    if closing.dry_run:
        print(frame.to_string(index=False))
    else:
        options = {
            **{"metric": closing.metrics(), "sets": "spread" if numbers is None else numbers},
            **{"subsets": closing.subsets, "greedy": closing.greedy, "layers": layers},
            "calibration": len(calibration),
        }
        pictures = _lesion_pictures(frame.assign(family=asked.model), closing.metrics())
        kept(asked, frame, data, options, None, **pictures)


def _lesion_pictures(frame: "pd.DataFrame", metrics: list[str]) -> dict[str, "Figure"]:
    """Single lesions, and sets, groups and greedy removal where there are any, for each metric."""
    drawn = {"set": ("sets", figures.lesion_sets), "group": ("groups", figures.lesion_groups)}
    drawn["greedy"] = ("greedy", figures.greedy_removal)
    pictures = {}
    for metric in metrics:
        suffix = "" if metric == metrics[0] else f"_{metric}"
        pictures[f"single{suffix}"] = figures.lesions(frame, quantity=metric)
        for kind, (name, figure) in drawn.items():
            if (frame["kind"] == kind).any():
                pictures[f"{name}{suffix}"] = figure(frame, quantity=metric)
    return pictures
