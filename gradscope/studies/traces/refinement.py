"""Points are doubled until neighbours' gradients are alike: white is white at this spacing only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradscope.gradients.traces.paths import InputPath
from gradscope.measures.trace import autocorrelation, rounding_of
from gradscope.studies.traces.statistics import CONSTANT, NOT_FINITE, without_rounding

RESOLVED = 0.5


class Trace(NamedTuple):
    """What was read along a path.

    Attributes:
        path: Where.
        gradients: The whole input gradient at every point, of the shape of the points.
        slopes: Its component along the path, [M], float64.
        rounding: Differences of slopes up to this are those of the precision of the gradients.
    """

    path: InputPath
    gradients: Tensor
    slopes: Tensor
    rounding: float


def read_along(path: InputPath, gradients_of: Callable[[Tensor], Tensor]) -> Trace:
    """The trace along a path, from a function that gives the input gradient at points."""
    gradients = gradients_of(path.points)
    tangents = path.tangents.to(gradients.device)
    products = gradients.double() * tangents.double()
    # A slope may be small because large parts cancel, and is then no more exact than these.
    norms = torch.linalg.vector_norm(gradients.double().flatten(start_dim=1), dim=1)
    rounding = float(rounding_of(norms.to(gradients.dtype)))
    return Trace(path, gradients, products.flatten(start_dim=1).sum(dim=1), rounding)


def refined(
    path_of: Callable[[int], InputPath],
    gradients_of: Callable[[Tensor], Tensor],
    points: int,
    max_points: int,
) -> tuple[Trace, list[dict[str, Any]]]:
    """The trace on the coarsest grid whose neighbours correlate by more than 1/2, and a row for each grid tried.

    Args:
        path_of: A path of as many points as asked for.
        gradients_of: The input gradient at given points.
        points: Of the first grid.
        max_points: No grid is finer than this.
    """
    rows: list[dict[str, Any]] = []
    while True:
        trace = read_along(path_of(points), gradients_of)
        neighbours = float(autocorrelation(without_rounding(trace.slopes, trace.rounding), 1)[1])
        known = neighbours == neighbours
        row = {"quantity": "lag_1_autocorrelation", "unit": "1", "points": points, "value": neighbours}
        more = {"n": points, "status": "ok" if known else "undefined"}
        rows.append(row | more | {"lag": 1, "distance": trace.path.spacing, "reason": ""})
        constant_or_not_finite = not known
        if constant_or_not_finite or neighbours > RESOLVED or 2 * points > max_points:
            rows[-1]["reason"] = _ending(trace.slopes, neighbours, max_points)
            return trace, rows
        points *= 2


def _ending(slopes: Tensor, neighbours: float, max_points: int) -> str:
    if neighbours > RESOLVED:
        return ""
    if neighbours == neighbours:
        return f"not resolved with max_points={max_points}"
    finite = bool(torch.isfinite(slopes).all())
    return CONSTANT if finite else NOT_FINITE
