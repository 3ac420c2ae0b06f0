"""The gradient of a network's output along a path of inputs: is it smooth, or noise?"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.data import line
from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.traces.along import gradients_at
from gradscope.gradients.traces.paths import InputPath, circle, line_between, scalar_line
from gradscope.instruments.batch_norm import warn_of_mixing
from gradscope.problem import Problem, as_problem
from gradscope.studies.traces.refinement import Trace, read_along, refined
from gradscope.studies.traces.statistics import (
    LAGS,
    reference_rows,
    statistic_rows,
    told,
    vector_statistic_rows,
)

if TYPE_CHECKING:
    import pandas as pd

ALONG = ("line", "circle")
SLOPE, VECTOR = "along the path", "whole gradient"
_COLUMNS = [
    *("batch_norm", "source", "along", "read", "points", "quantity", "unit", "noise", "statistic"),
    *("x", "lag", "distance", "value", "low", "high", "n", "status", "reason"),
]
_PLAIN_COLUMNS = ["batch_norm", "quantity", "unit", "x", "value", "status", "reason"]


def input_trace(
    problem: Any,
    inputs: Tensor | InputPath | None = None,
    *,
    batch_norm: str = "auto",
    source: ExampleSource = "output",
    between: tuple[int, int] | None = None,
    along: str = "line",
    points: int = 256,
    lags: int | None = None,
    refine: bool = False,
    max_points: int = 4096,
    block_size: int | None = None,
) -> "pd.DataFrame":
    """The input gradient of a network along a grid of scalars, or along a path between two samples.

    A shallow network's gradient wanders like brown noise, a shattered one's jumps like white noise. White always means
    at this spacing of the points: `refine` doubles them until neighbours agree, which tells the distance over which
    the gradient stays alike.

    Args:
        problem: A model, with `inputs`; or a Problem or (model, data), whose first batch holds the samples.
        inputs: A grid of scalars [N, 1], see `data.line`; or a path from `gradients.traces.paths`. None for `between`,
            or where the first batch is such a grid.
        batch_norm: As in `Problem`, for a model or pair; a Problem has its own. `frozen` and `train` take the
            statistics of the points of the path themselves, not of the data, and so change a little with the points.
            `own` is not offered.
        source: What is differentiated at each point, as in `gradients.example_values`: the sum of the outputs
            (Definition 1), the k-th output, a function; for `logit` and `loss` every point has the target of the first
            sample.
        between: Numbers of two samples in the first batch. The path begins at the first one.
        along: `line`, from one to the other; or `circle`, the great circle around the mean of the first batch through
            both directions, at their mean distance from it.
        points: Of the path between samples; of a grid there are as many as given.
        lags: Largest lag of the statistics. None: 15 along a path, and no statistics for a grid of scalars.
        refine: Double the points until the autocorrelation at lag 1 exceeds 1/2, or `max_points` would be passed.
        max_points: The floor of the spacing.
        block_size: Points in one pass; None for all, as batch statistics and modules that mix examples need.

    Returns:
        For a grid without `lags` and `refine`, columns `batch_norm`, `quantity` (`input_gradient`), `unit`, `x`,
        `value`, `status`, `reason`, one row a point. Otherwise also `source`, `along`, `read`, `points`, `noise`,
        `statistic`, `lag`, `distance` (in units of the input, Euclidean), `low`, `high`, `n`, with rows of:
        `input_gradient` at `x` (for scalars; elsewhere the distance travelled), the component along the path, and
        `input_gradient_norm` of the whole gradient of inputs of several numbers; `autocorrelation` by lag (of the
        whole gradients by inner products) and `correlation_distance`, where it falls to 1/2, with 0 and the spacing as
        `low` and `high` where it was not resolved; `spectral_slope`, `von_neumann_ratio`, `ljung_box` and its
        `ljung_box_p_value`, `distinct_values` (below 10 the other rows' reason says so); `lag_1_autocorrelation` of
        each grid that was refined; `reference`, the mean of each `statistic` over scalar noise of the same length,
        with the band of 95 % of single traces as `low` and `high`.

    Raises:
        ValueError: Inputs that are no grid of scalars and no path, no such samples, a path that cannot be refined,
            `own`, or what `example_values` and the statistics refuse.

    Warns:
        UserWarning: `batch_norm="train"`, where a summed backward pass mixes the points.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figures 1 and 2, equation 1.
    """
    problem = _problem(problem, inputs, batch_norm)
    warn_of_mixing(problem)
    if problem.batch_norm == "own":
        raise ValueError("input_trace has no batch_norm='own'. Use 'frozen', 'running' or 'train'.")
    if along not in ALONG:
        raise ValueError(f"along is one of {', '.join(ALONG)}, got {along!r}.")
    with problem.prepared():
        batch, targets = problem.first_batch()
    name, target, path_of, points = _path(batch, targets, inputs, between, along, points)
    gradients_of = partial(gradients_at, problem, target=target, source=source, block_size=block_size)
    if name == "grid" and lags is None and not refine:
        return _plain(problem, batch if inputs is None else inputs, gradients_of(batch))
    levels: list[dict[str, Any]] = []
    if refine:
        if isinstance(inputs, InputPath):
            raise ValueError(
                "refine makes the path anew with more points, which a given path does not tell how. Pass "
                "between=(i, j), or a grid of scalars."
            )
        trace, levels = refined(path_of, gradients_of, points, max_points)
    else:
        trace = read_along(path_of(points), gradients_of)
    rows = _rows(trace, LAGS if lags is None else lags) + levels
    return _framed(problem, rows, name, source, len(trace.slopes))


def _problem(problem: Any, inputs: Tensor | InputPath | None, batch_norm: str) -> Problem:
    if isinstance(problem, nn.Module):
        if inputs is None:
            raise ValueError(
                "A model alone has no inputs: pass a grid [N, 1], a path, or a Problem with between=."
            )
        data = inputs.points if isinstance(inputs, InputPath) else inputs
        return Problem(problem, data, batch_norm=batch_norm)
    if isinstance(problem, Problem) and batch_norm != "auto":
        raise ValueError(f"The Problem has batch_norm={problem.batch_norm!r} of its own. Set it there.")
    return as_problem(problem) if isinstance(problem, Problem) else as_problem(problem, batch_norm=batch_norm)


PathOf = Callable[[int], InputPath]


def _path(
    batch: Any,
    targets: Tensor | None,
    inputs: Tensor | InputPath | None,
    between: tuple[int, int] | None,
    along: str,
    points: int,
) -> tuple[str, Tensor | None, PathOf, int]:
    """Its name, the target of its points, a function from a number of points to the path, and that number."""
    if isinstance(inputs, InputPath):
        given = inputs
        return "path", None, lambda _: given, len(given.distances)
    if between is not None and inputs is None:
        first, second = _samples(batch, between)
        target = None if targets is None else targets[between[0]]
        if along == "line":
            return along, target, lambda count: line_between(first, second, count), points
        centre = batch.double().mean(dim=0)
        return along, target, lambda count: circle(first, second, count, centre=centre), points
    grid = batch if inputs is None else inputs
    if between is not None or not isinstance(grid, Tensor) or grid.ndim != 2 or grid.shape[1] != 1:
        came = list(grid.shape) if isinstance(grid, Tensor) else type(grid).__name__
        raise ValueError(
            f"input_trace follows a line of scalars, shape [N, 1], got {came}; or a path between two samples of a "
            "problem, input_trace(problem, between=(0, 1)), without inputs."
        )
    low, high = float(grid[0]), float(grid[-1])

    def refined_grid(count: int) -> InputPath:
        return scalar_line(grid if count == len(grid) else line(count, low, high, dtype=grid.dtype))

    return "grid", None, refined_grid, len(grid)


def _samples(batch: Any, between: tuple[int, int]) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, Tensor) or not batch.is_floating_point():
        raise ValueError("A path between samples needs inputs that are one floating-point tensor.")
    pair = tuple(between) if isinstance(between, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(place, int) and 0 <= place < len(batch) for place in pair):
        raise ValueError(
            f"between={between!r} names two samples of the first batch, which has 0 .. {len(batch) - 1}."
        )
    return batch[between[0]], batch[between[1]]


def _rows(trace: Trace, lags: int) -> list[dict[str, Any]]:
    path, scalar = trace.path, trace.gradients[0].numel() == 1
    place = path.points.double().flatten() if scalar else path.distances
    unit, shared = "output per input", {"n": 1}
    rows = [
        shared | {"quantity": "input_gradient", "unit": unit, "read": SLOPE, "x": x} | told(value)
        for x, value in zip(place.tolist(), trace.slopes.tolist(), strict=True)
    ]
    of_slopes = statistic_rows(trace.slopes, path.spacing, lags, trace.rounding)
    rows += [{**row, "read": SLOPE} for row in of_slopes]
    if not scalar:
        flat = trace.gradients.flatten(start_dim=1)
        norms = torch.linalg.vector_norm(flat.double(), dim=1)
        rows += [
            shared | {"quantity": "input_gradient_norm", "unit": unit, "read": VECTOR, "x": x} | told(norm)
            for x, norm in zip(place.tolist(), norms.tolist(), strict=True)
        ]
        rows += [{**row, "read": VECTOR} for row in vector_statistic_rows(flat, path.spacing, lags)]
    return rows + [{**row, "read": SLOPE} for row in reference_rows(len(place), path.spacing, lags)]


def _framed(
    problem: Problem, rows: list[dict[str, Any]], name: str, source: ExampleSource, points: int
) -> "pd.DataFrame":
    import pandas as pd

    empty = {"noise": "", "statistic": "", "points": points, "read": SLOPE}
    frame = pd.DataFrame([empty | row for row in rows])
    label = source if isinstance(source, str) else getattr(source, "__name__", str(source))
    frame = frame.assign(batch_norm=problem.batch_norm_name, source=label, along=name)
    return frame.reindex(columns=_COLUMNS)


def _plain(problem: Problem, grid: Any, gradient: Tensor) -> "pd.DataFrame":
    import pandas as pd

    values = gradient.double().flatten().tolist()
    rows = [
        {"x": x, **told(value)} for x, value in zip(grid.double().flatten().tolist(), values, strict=True)
    ]
    frame = pd.DataFrame(rows).assign(quantity="input_gradient", unit="output per input")
    return frame.assign(batch_norm=problem.batch_norm_name)[_PLAIN_COLUMNS]
