"""How many paths of each length does a network hold, whatever its gradient does with them?"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from torch import nn

from gradscope.gradients.branches import counted
from gradscope.instruments.junctions import Junction, Junctions, Trace, trace
from gradscope.problem import as_problem

if TYPE_CHECKING:
    import pandas as pd


def path_counts(
    problem: Any,
    data: Any = None,
    *,
    junctions: Junction | Sequence[Junction] | str | Callable[[Junction], bool] | None = None,
) -> "pd.DataFrame":
    """The number of paths from the input to the output, by the number of residual branches they cross.

    Counted exactly on the graph of one forward pass; no gradient is taken. At each counted junction a path crosses
    one of the branches or passes without; all else is one function of the values it is computed from, and gives one
    path to each of them. So blocks in series multiply: x + F(x) by 1 + t, x + F(x) + G(x) by 1 + 2t, a gated or a
    densely connected layer by 1 + t; the long skip of a U-Net is one more path beside those through the deeper part,
    and what reads an encoder adds the paths into it. Convolutions that join without a skip, as in fractal or Inception
    blocks, count as one function; for their own expansion there is `gs.theory.path_counts`.

    Args:
        problem: Problem, (model, data), or a model with `data` beside it. The first batch is used, and no targets.
        data: As in `Problem`, if `problem` is a model.
        junctions: Those at which lengths are counted: junctions of `gs.junctions`, a pattern of their names, or a
            function of one that says whether. None: the outermost that have a skip. Blocks inside other blocks
            count if they are named: a long skip around three of them makes 1 + (1 + t)^3 if it is not named itself,
            and 1 + t (1 + t)^3 if it is.

    Returns:
        Frame with columns `quantity`, `unit`, `path_length` (missing for summaries), `value`, `low`, `high`, `n`,
        `status`, `reason`; counts are exact, so without interval. Counted are the paths that end at the input at which
        path gradients are taken: of an encoder-decoder the first one, of tokens what the embedding makes of them.
        Quantities:

        - `path_count`: correctly rounded, which whole numbers beyond 2^53 may need; `path_count_log10`;
        - `path_count_share`: of all paths, in [0, 1];
        - `path_count_mean`, `path_count_variance`: of the length over paths, each counting the same;
        - `paths_told_apart`: 1 if no two paths cross the same branches, so that g_k is the sum of as many
          gradients as there are paths; 0 if two do, or if that could not be excluded.

    Raises:
        ValueError: Nothing can be counted at the junctions asked for; or as `gs.junctions`.

    Source:
        Veit et al. (2016), arXiv:1605.06431, for the unravelled view; the generating functions are derived.

    Example:
        >>> gs.path_counts(model, images)
    """
    import pandas as pd

    if data is not None and not isinstance(problem, nn.Module):
        raise ValueError(
            f"path_counts(model, data) takes a model with its data beside it, got {type(problem).__name__}. A Problem "
            "has its own data: path_counts(problem)."
        )
    problem = as_problem(problem if data is None else (problem, data))
    with problem.prepared():
        inputs, _ = problem.first_batch()
        found = trace(problem.model, problem.outputs, inputs)
        routes = found.routes(_chosen(found, junctions))
        counts = routes.counts()
    rows = _by_length(counts) + _summaries(counts, routes.one_to_one())
    shared = {"low": math.nan, "high": math.nan, "n": 1, "status": "ok", "reason": ""}
    columns = ["quantity", "unit", "path_length", "value", "low", "high", "n", "status", "reason"]
    frame = pd.DataFrame([{"path_length": None, **shared, **row} for row in rows], columns=columns)
    return frame.astype({"path_length": "Int64", "value": "float64"})


_NONE_OF_THIS = "no path has this length"
_NONE = "no path leads to the input"
_LARGE = "more than float64 holds; path_count_log10 tells it"


def _chosen(found: Trace, junctions: Any) -> list[Junction] | None:
    if isinstance(junctions, str):
        junctions = Junctions(found.junctions).matching(junctions)
    if isinstance(junctions, Junction):
        junctions = [junctions]
    return None if junctions is None else counted(found, junctions)[0]


def _by_length(counts: Sequence[int]) -> list[dict[str, Any]]:
    total = sum(counts)
    rows = []
    for length, count in enumerate(counts):
        rows += [
            {"quantity": "path_count", "unit": "paths", "path_length": length} | _rounded(count),
            {"quantity": "path_count_log10", "unit": "log10 paths", "path_length": length}
            | (_value(math.log10(count)) if count else _undefined(_NONE_OF_THIS)),
            {"quantity": "path_count_share", "unit": "1", "path_length": length}
            | (_value(count / total) if total else _undefined(_NONE)),
        ]
    return rows


def _summaries(counts: Sequence[int], told_apart: bool) -> list[dict[str, Any]]:
    total = sum(counts)
    mean = Fraction(sum(k * count for k, count in enumerate(counts)), total or 1)
    square = Fraction(sum(k * k * count for k, count in enumerate(counts)), total or 1)
    values = {
        ("path_count_mean", "branches"): float(mean),
        ("path_count_variance", "branches^2"): float(square - mean * mean),
        ("paths_told_apart", "1"): float(told_apart),
    }
    return [
        {"quantity": quantity, "unit": unit} | (_value(value) if total else _undefined(_NONE))
        for (quantity, unit), value in values.items()
    ]


def _rounded(count: int) -> dict[str, Any]:
    try:
        return _value(float(count))
    except OverflowError:
        return _undefined(_LARGE)


def _value(value: float) -> dict[str, Any]:
    return {"value": value}


def _undefined(reason: str) -> dict[str, Any]:
    return {"value": math.nan, "status": "undefined", "reason": reason}
