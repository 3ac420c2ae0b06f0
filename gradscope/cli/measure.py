"""The verbs that look at one model: build or bring it, measure, keep the frame with its figure."""

import importlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.cli.reporting import check_writable
from gradscope.data import DataSet
from gradscope.nets import build, names
from gradscope.nets.registry import FAMILIES
from gradscope.problem import Problem
from gradscope.report import keep, provenance
from gradscope.studies.settings import Settings
from gradscope.training import fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Asked:
    """What every verb is asked: which model, on which data, and where to write."""

    verb: str
    model: str
    data: str
    data_root: Path | None
    weights: Path | None
    epochs: int
    examples: int
    seed: int
    out: Path | None

    @property
    def folder(self) -> Path:
        """Where to write: by default a folder of this verb's and this model's own."""
        if self.out is not None:
            return self.out
        slug = re.sub(r"[^A-Za-z0-9._]+", "-", self.model).strip("-.")[:100]
        return Path("reports") / f"{self.verb}-of-{slug}"

    def some(self, images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The first of these images and labels, as many as were asked for."""
        if self.examples > len(images[0]):
            print(
                f"--examples {self.examples}: there are {len(images[0])}, all of which are used.",
                file=sys.stderr,
            )
        return images[0][: self.examples], images[1][: self.examples]

    def data_set(self) -> DataSet:
        return Settings(data=self.data, data_root=self.data_root).data_set()


def model_from(text: str, data: DataSet, seed: int) -> nn.Module:
    """A network of the command line: `family:option=value,...`, or a factory `package.module:function`.

    Raises:
        ValueError: Neither a family nor something to import, or a factory that returns no module.
    """
    name, _, rest = text.partition(":")
    if name in names():
        options = dict(_option(part) for part in rest.split(",") if part)
        if "seed" in options:
            raise ValueError("The seed is an option of the command, not of the network: write --seed.")
        signature = FAMILIES[name].__code__.co_varnames
        options = _suiting(data, signature) | options
        return build(name, seed=seed, **options)
    if not rest or "=" in rest:
        raise ValueError(
            f"There is no network called {text!r}. Known are {', '.join(names())}; your own is named "
            "package.module:factory."
        )
    print(f"importing {name} and calling {rest}()", file=sys.stderr)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(name), rest)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--model {text} cannot be imported: {error}. Write package.module:factory."
        ) from error
    try:
        # Weights are drawn anew with every call, so that without a seed no two runs would agree.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = factory()
    except Exception as error:
        raise ValueError(f"--model {text} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"--model {text} returned {type(model).__name__}, but an nn.Module is needed.")
    return model


def _suiting(data: DataSet, known: tuple[str, ...]) -> dict[str, Any]:
    """Options that fit a network to the data, as far as its family has them."""
    shape = data.train[0].shape[1:]
    fitting = {
        "channels": shape[0],
        "classes": data.classes,
        "inputs": shape.numel(),
        "outputs": data.classes,
    }
    return {option: value for option, value in fitting.items() if option in known}


def _option(part: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals or not key:
        raise ValueError(f"A network's options are written name=value, separated by commas, got {part!r}.")
    for kind in (int, float):
        try:
            return key.strip(), kind(value)
        except ValueError:
            continue
    words = {"true": True, "false": False, "none": None}
    return key.strip(), words.get(value.strip().lower(), value.strip())


def prepared(asked: Asked, *, labels: bool = True) -> tuple[nn.Module, DataSet]:
    """The network, with its weights or trained, and the data; `labels` tells whether the classes are used."""
    check_writable(asked.folder)
    data = asked.data_set()
    model = model_from(asked.model, data, asked.seed)
    _check_fits(asked.model, model, data, labels or asked.epochs > 0)
    if asked.weights is not None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(asked.weights)
            # A checkpoint of `fit` holds the momentum too, and the weights under a name of their own.
            mine = {
                name.removeprefix("model."): value
                for name, value in state.items()
                if name.startswith("model.")
            }
            model.load_state_dict(state if set(state) >= set(model.state_dict()) else mine or state)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{asked.weights} does not hold this model's weights: {error}") from error
        model.eval()
    if asked.epochs:
        fit(model, data, epochs=asked.epochs, seed=asked.seed, progress=True)
    return model, data


def _check_fits(text: str, model: nn.Module, data: DataSet, labels: bool) -> None:
    """Two images through the network, so that a wrong shape is told before anything long begins."""
    problem = Problem(model, data.test[0][:2])
    shape = list(data.test[0].shape[1:])
    try:
        with problem.prepared(), torch.no_grad():
            output = problem.outputs(problem.first_batch()[0])
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(f"--model {text} does not take images {shape} of {data.name}: {error}") from error
    if labels and (output.ndim != 2 or output.shape[1] < data.classes):
        raise ValueError(
            f"--model {text} gives {list(output.shape[1:])} numbers for an image, but {data.name} has "
            f"{data.classes} classes: one logit for each is needed."
        )


def kept(
    asked: Asked,
    frame: "pd.DataFrame",
    data: DataSet,
    options: dict[str, Any],
    shown: "pd.DataFrame | None" = None,
    **pictures: "Figure",
) -> None:
    """Write the frame, its pictures and its provenance in place of an earlier run's, and print the frame.

    Args:
        asked: What every verb is asked.
        frame: What was measured.
        data: On what.
        options: The verb's own, as they were asked for.
        shown: What is printed in place of the frame.
        pictures: By name.
    """
    facts = provenance(
        {
            **{"verb": asked.verb, "model": asked.model, "epochs": asked.epochs},
            **{"weights": None if asked.weights is None else asked.weights.name},
            **{"examples": asked.examples, "test_images": len(data.test[0])},
            **options,
        },
        seeds=[asked.seed],
        data=data,
    )
    facts["pictures"] = sorted(f"{name}.{kind}" for name in pictures for kind in ("png", "svg"))
    earlier = _pictures_in(asked.folder)
    labelled = frame.assign(model=asked.model, seed=asked.seed)
    folder = keep(asked.folder, labelled, "readings", facts, **pictures)
    for name in earlier - set(facts["pictures"]):
        (folder / name).unlink(missing_ok=True)
    if not asked.epochs and asked.weights is None and asked.model.partition(":")[0] in names():
        print("untrained network: see --epochs and --weights.", file=sys.stderr)
    told = _legible(frame) if shown is None else shown
    # A verb that chose what is shown has its rows shown.
    most = 40 if shown is None else 400
    print(told.to_string(index=False, max_rows=most, max_cols=12, max_colwidth=40))
    print(folder)


def _pictures_in(folder: Path) -> set[str]:
    """Figures that an earlier run wrote into the folder, as its provenance names them."""
    try:
        told = json.loads((folder / "provenance.json").read_text(encoding="utf-8")).get("pictures", [])
    except (OSError, ValueError, AttributeError):
        return set()
    return {
        name for name in told if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]+\.(png|svg)", name)
    }


def _legible(frame: "pd.DataFrame") -> "pd.DataFrame":
    """What differs from row to row, for a terminal; the files hold every column and every row."""
    rows = frame[frame["quantity"] != "spectral_density"]
    told = ["quantity", "value"]
    return rows[[name for name in rows.columns if name in told or rows[name].nunique(dropna=False) > 1]]
