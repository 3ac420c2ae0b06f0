"""Which units of a rectifier are active on which of ordered inputs, and for how long on end."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gradscope.instruments.rectifiers import on_rectified
from gradscope.instruments.sites import sites
from gradscope.measures.contiguity import contiguity
from gradscope.problem import Problem, as_problem, examples_in

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = [
    *("batch_norm", "quantity", "unit", "site", "depth", "call", "neuron", "x", "length"),
    *("value", "low", "high", "n", "status", "reason"),
]


class _Heard(NamedTuple):
    site: str
    depth: int
    call: int
    active: Tensor


def activity_raster(
    problem: Any,
    inputs: Tensor | None = None,
    *,
    at: str | Sequence[str] | None = None,
    units: int = 40,
    batch_norm: str = "auto",
) -> "pd.DataFrame":
    """On which inputs, in their order, the units of a rectifier are active, and how long they stay so.

    Where neighbouring inputs switch units as coins would, runs are about 2 inputs long and gradients are white noise.

    Args:
        problem: A model, with `inputs`; or a Problem or (model, data), whose first batch is taken where none are given.
        inputs: In order: a grid of scalars [N, 1] that ascends, as `data.line` makes it; or any path, such as
            `gradients.traces.paths.line_between(...).points`, [N, ...]. Two or more.
        at: Modules in which rectifiers (ReLU, ReLU6, clamp at 0, as modules or functions) run, as in
            `instruments.sites`; None for the last rectifier that runs.
        units: How many are shown of each, evenly spread; runs are those of all units.
        batch_norm: As in `Problem`, for a model or pair; a Problem has its own.

    Returns:
        Frame with columns `batch_norm`, `quantity`, `unit`, `site`, `depth` (order of running among rectifiers, from
        1), `call` (of several in one module), `neuron`, `x` (a scalar input; else its number in the order), `length`,
        `value`, `low`, `high`, `n`, `status`, `reason`, and rows of: `active`, 1 or 0, by `neuron` and `x`; `runs`, the
        number of runs of equal state by `length`, in inputs; `mean_run_length`, of all runs of all units;
        `constant_share`, of units that never switch. `figures.raster` and `figures.run_lengths` draw it as it is.

    Raises:
        ValueError: No rectifier there, fewer than two inputs, scalars that do not ascend, no units, or an output
            without a row for each input.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 4.
    """
    import pandas as pd

    if not isinstance(units, int) or units < 1:
        raise ValueError(f"units is a whole number of at least 1, got {units!r}.")
    problem = _problem(problem, inputs, batch_norm)
    batch = problem.first_batch()[0]
    place = _places(batch)
    heard = _heard(problem, batch)
    rows: list[dict[str, Any]] = []
    for found in _chosen(problem.model, heard, at):
        rows += _rows(found, place, units)
    empty = {"unit": "1", "low": math.nan, "high": math.nan, "status": "ok", "reason": ""}
    frame = pd.DataFrame([empty | row for row in rows]).assign(batch_norm=problem.batch_norm_name)
    return frame.reindex(columns=_COLUMNS)


def _problem(problem: Any, inputs: Tensor | None, batch_norm: str) -> Problem:
    if isinstance(problem, nn.Module):
        if inputs is None:
            raise ValueError("A model alone has no inputs: pass them in their order, or a Problem.")
        return Problem(problem, inputs, batch_norm=batch_norm)
    if isinstance(problem, Problem) and batch_norm != "auto":
        raise ValueError(f"The Problem has batch_norm={problem.batch_norm!r} of its own. Set it there.")
    given = (
        as_problem(problem) if isinstance(problem, Problem) else as_problem(problem, batch_norm=batch_norm)
    )
    if inputs is None:
        return given
    return Problem(given.model, inputs, batch_norm=given.batch_norm, forward=given.forward)


def _places(batch: Any) -> list[float]:
    """Where each input lies: a scalar's value, another's number in the order."""
    count = examples_in(batch)
    if count < 2:
        raise ValueError(f"activity_raster follows two inputs or more, and the first batch has {count}.")
    if not isinstance(batch, Tensor) or not batch.is_floating_point() or batch.shape[1:] != (1,):
        return [float(number) for number in range(count)]
    values = batch.double().flatten()
    if not bool((values.diff() > 0).all()):
        raise ValueError(
            "Runs are of neighbouring inputs, and these scalars do not ascend. Sort them: x.sort(dim=0).values."
        )
    return values.tolist()


def _heard(problem: Problem, batch: Any) -> list[_Heard]:
    heard: list[_Heard] = []
    order: dict[tuple[str, int], int] = {}

    def listen(name: str, call: int, output: Tensor) -> None:
        depth = order.setdefault((name, call), len(order) + 1)
        heard.append(_Heard(name, depth, call, output.detach() > 0))

    with problem.prepared() as model, torch.no_grad(), on_rectified(model, listen):
        problem.outputs(batch)
    return heard


def _chosen(model: nn.Module, heard: list[_Heard], at: str | Sequence[str] | None) -> list[_Heard]:
    if not heard:
        raise ValueError(
            f"{type(model).__name__} has no rectifier: no ReLU, ReLU6 or clamp at 0 ran. Units of smooth and leaky "
            "activations are never off."
        )
    if at is None:
        return heard[-1:]
    names = {site.name for site in sites(model, at)}
    chosen = [found for found in heard if found.site in names]
    if not chosen:
        there = ", ".join(dict.fromkeys(repr(found.site) for found in heard))
        raise ValueError(f"No rectifier runs in {', '.join(sorted(names))} itself; they run in {there}.")
    return chosen


def _rows(found: _Heard, place: list[float], units: int) -> list[dict[str, Any]]:
    if len(found.active) != len(place):
        raise ValueError(
            f"The output of {found.site!r} has {len(found.active)} rows for {len(place)} inputs, so its units cannot "
            "be told apart. Name another site as at=."
        )
    active = found.active.flatten(start_dim=1).cpu()
    runs = contiguity(active)
    count = active.shape[1]
    shown = torch.linspace(0, count - 1, min(units, count), dtype=torch.float64).round().long().tolist()
    where = {"site": found.site, "depth": found.depth, "call": found.call}
    rows: list[dict[str, Any]] = [
        {"quantity": "active", "neuron": neuron, "x": x, "value": float(state), "n": 1}
        for neuron in shown
        for x, state in zip(place, active[:, neuron].tolist(), strict=True)
    ]
    rows += [
        {"quantity": "runs", "unit": "number", "length": length, "value": float(number), "n": count}
        for length, number in enumerate(runs.histogram.tolist())
        if number
    ]
    rows.append({"quantity": "mean_run_length", "unit": "inputs", "value": float(runs.mean), "n": count})
    rows.append({"quantity": "constant_share", "value": float(runs.constant), "n": count})
    return [where | row for row in rows]
