"""Which residual blocks matter, and how many can go? Error after closing branches."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.instruments.batch_norm import batch_norm_layers
from gradscope.instruments.calls import additions
from gradscope.instruments.gates import bypass, lesion
from gradscope.instruments.junctions import Junctions, trace
from gradscope.instruments.quiet import left_as_found
from gradscope.instruments.recalibrate import recalibrated
from gradscope.instruments.sites import sites
from gradscope.measures.intervals import wilson
from gradscope.problem import Problem, as_problem
from gradscope.progress import progress

if TYPE_CHECKING:
    import pandas as pd

Lesioned = Callable[[], AbstractContextManager[object]]


def lesion_study(
    problem: Any,
    *,
    sets: Sequence[int] = (),
    subsets: int = 30,
    calibration: Tensor | None = None,
    recalibrate: bool = True,
    seed: int = 0,
    show: bool | None = None,
) -> "pd.DataFrame":
    """Error of a classifier after closing each residual branch, and random sets of them.

    A block whose skip projects keeps its projection. All errors are over the same images. Each row of the
    frame costs one pass over the data, a recalibrated one another over the calibration inputs.

    Args:
        problem: Problem or (model, data) with class labels; all batches are used.
        sets: Numbers of branches to close together, each `subsets` times at random.
        subsets: Random sets for each number.
        calibration: Inputs [N, ...] for batch-norm statistics of the lesioned network, no labels needed.
            None: the problem's own inputs, which the `reason` column then says.
        recalibrate: Whether to measure with recalibrated statistics too.
        seed: Of the random sets.
        show: Progress, as in `progress`.

    Returns:
        Frame with columns `quantity` (`error`; `intact_error`; `chance_error`, of always naming the
        largest class), `unit`, `statistics` (`stale`: stored ones, of the intact network; `recalibrated`;
        `none` without batch normalisation), `junction`, `kind`, `index`, `deleted` (how many), `draw`,
        `value`, `low`, `high` (Wilson 95 % over images), `n` (images), `status`, `reason`.

    Raises:
        ValueError: No residual branch to close; a number in `sets` that is out of range; stored
            statistics that were never updated.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figures 3 and 5a; statistics: a pitfall found since.
    """
    problem = as_problem(problem)
    with _evaluated(problem):
        found = _junctions(problem)
        closable = [j for j in found if j.level == 0 and j.graded and j.branches]
        if not closable:
            raise ValueError(
                f"{type(problem.model).__name__} has no residual branch to close. For a plain network, use "
                "layer_lesion_study, which replaces layers by the identity."
            )
        wrong = [count for count in sets if not 1 <= count <= len(closable)]
        if wrong or subsets < 1:
            raise ValueError(
                f"sets are numbers from 1 to {len(closable)} (the branches here) and subsets is at least 1, "
                f"got sets {list(sets)} and subsets {subsets}."
            )
        bench = _Bench(problem, calibration, recalibrate)
        rows = bench.reference_rows()
        generator = torch.Generator().manual_seed(seed)
        chosen = [(place, [junction]) for place, junction in enumerate(closable)]
        drawn = [
            (draw, [closable[int(i)] for i in torch.randperm(len(closable), generator=generator)[:count]])
            for count in sets
            for draw in range(subsets)
        ]
        with progress("lesions", len(chosen) + len(drawn), show=show) as advance:
            for _, single in chosen:
                junction = single[0]
                labels = {"junction": junction.name, "kind": junction.kind, "index": junction.index}
                rows += bench.rows(partial(lesion, problem.model, single), deleted=1, draw=-1, **labels)
                advance(1)
            for draw, several in drawn:
                labels = {"junction": "", "kind": "set", "index": -1}
                rows += bench.rows(
                    partial(lesion, problem.model, several), deleted=len(several), draw=draw, **labels
                )
                advance(1)
    return _frame(rows)


def layer_lesion_study(
    problem: Any,
    *,
    at: str | Sequence[str] = "blocks.*",
    calibration: Tensor | None = None,
    recalibrate: bool = True,
    show: bool | None = None,
) -> "pd.DataFrame":
    """Error of a plain classifier after replacing each layer by the identity, where shapes allow.

    The control of Veit et al. (2016) for a network without skips. Frame as `lesion_study`, `kind` `layer`;
    a layer that changes the shape is a row with `status` `skipped`.

    Args:
        problem: Problem or (model, data) with class labels.
        at: The layers, as in `instruments.sites`.
        calibration, recalibrate, show: As in `lesion_study`.
    """
    problem = as_problem(problem)
    with _evaluated(problem):
        bench = _Bench(problem, calibration, recalibrate)
        rows = bench.reference_rows()
        layers = sites(problem.model, at)
        with progress("layer lesions", len(layers), show=show) as advance:
            for index, layer in enumerate(layers):
                labels = {"junction": layer.name, "kind": "layer", "index": index}
                if _keeps_shape(problem, layer.name):
                    rows += bench.rows(
                        partial(bypass, problem.model, layer.name), deleted=1, draw=-1, **labels
                    )
                else:
                    rows.append(
                        {
                            "quantity": "error",
                            "statistics": bench.kinds[0],
                            "deleted": 1,
                            "draw": -1,
                            **labels,
                        }
                        | {"value": math.nan, "low": math.nan, "high": math.nan, "n": bench.images}
                        | {"status": "skipped", "reason": "the layer changes the shape"}
                    )
                advance(1)
    return _frame(rows)


class _Bench:
    """Measures the error under a lesion, with stale and with recalibrated statistics."""

    def __init__(self, problem: Problem, calibration: Tensor | None, recalibrate: bool) -> None:
        self.problem = problem
        self.batches = list(problem.batches())
        targets = [target for _, target in self.batches if target is not None]
        if len(targets) < len(self.batches):
            raise ValueError("A lesion study counts errors, but the data has no targets. Pass data=(x, y).")
        labels = torch.cat(targets)
        if (
            labels.ndim != 1
            or labels.is_floating_point()
            or labels.is_complex()
            or labels.dtype == torch.bool
        ):
            raise ValueError(
                f"A lesion study counts wrong classes: targets are class numbers [N], got {labels.dtype} "
                f"{list(labels.shape)}. Pass class numbers, such as one_hot.argmax(dim=1)."
            )
        self.images = len(labels)
        self.largest_class = int(torch.bincount(labels).max())
        if calibration is None:
            self.calibration = [inputs for inputs, _ in self.batches]
            self.reason = "calibrated on the problem's own inputs"
        else:
            self.calibration = list(calibration.to(problem.device, problem.dtype).split(256))
            self.reason = ""
        normalised = bool(batch_norm_layers(problem.model))
        self.kinds = (
            ["stale", "recalibrated"] if normalised and recalibrate else ["stale"] if normalised else ["none"]
        )

    def rows(self, lesioned: Lesioned, **labels: Any) -> list[dict[str, Any]]:
        rows = []
        for statistics in self.kinds:
            renewed = statistics == "recalibrated"
            renewal = recalibrated(self.problem.model, self.calibration, self.problem.outputs)
            with lesioned(), renewal if renewed else nullcontext():
                value, low, high = wilson(self._wrong(), self.images)
            measured = {"value": value, "low": low, "high": high, "n": self.images, "status": "ok"}
            reason = {"reason": self.reason if renewed else ""}
            rows.append({"quantity": "error", "statistics": statistics} | labels | measured | reason)
        return rows

    def reference_rows(self) -> list[dict[str, Any]]:
        labels = {"junction": "", "kind": "", "index": -1, "deleted": 0, "draw": -1}
        # Additions are watched here too: torch takes another route through fused attention when they are.
        watched = partial(additions, self.problem.model)
        rows = [row | {"quantity": "intact_error"} for row in self.rows(watched, **labels)]
        chance = 1 - self.largest_class / self.images
        return [
            *rows,
            rows[0] | {"quantity": "chance_error", "value": chance, "low": math.nan, "high": math.nan},
        ]

    def _wrong(self) -> int:
        with torch.no_grad():
            return sum(
                int((self.problem.outputs(inputs).argmax(dim=1) != targets).sum())
                for inputs, targets in self.batches
                if targets is not None
            )


@contextmanager
def _evaluated(problem: Problem) -> Iterator[None]:
    """Eval mode with stored statistics, as a deployed network runs; refused while they are fresh."""
    if problem.batch_norm not in ("auto", "running"):
        raise ValueError(
            f"A lesion study runs the network as deployed, with stored statistics and with recalibrated ones, so "
            f"batch_norm={problem.batch_norm!r} has no meaning here. Leave it out."
        )
    layers = [layer for layer in batch_norm_layers(problem.model) if layer.track_running_stats]
    if any(layer.num_batches_tracked == 0 for layer in layers):
        raise ValueError(
            "The stored batch-norm statistics were never updated (mean 0, variance 1 normalise nothing), so the intact "
            "network has no error to compare with. Train it, or run it in train mode on some data first."
        )
    with left_as_found(problem.model):
        problem.model.eval()
        yield


def _junctions(problem: Problem) -> Junctions:
    inputs, _ = problem.first_batch()
    found = trace(problem.model, problem.outputs, inputs)
    return Junctions(found.junctions)


def _keeps_shape(problem: Problem, layer: str) -> bool:
    inputs, _ = problem.first_batch()
    try:
        with bypass(problem.model, layer), torch.no_grad():
            problem.outputs(inputs[:1] if isinstance(inputs, Tensor) else inputs)
    except ValueError:
        return False
    return True


def _frame(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    columns = ["quantity", "unit", "statistics", "junction", "kind", "index", "deleted", "draw"]
    measured = ["value", "low", "high", "n", "status", "reason"]
    return pd.DataFrame([{"unit": "share of images"} | row for row in rows])[[*columns, *measured]]
