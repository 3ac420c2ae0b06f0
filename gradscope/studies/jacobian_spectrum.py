"""Does the network stretch all directions of its input alike?"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.input_jacobian import LiveJacobian, live_jacobian
from gradscope.instruments.batch_norm import warn_of_mixing
from gradscope.measures.singular_values import (
    ISOMETRY,
    Moments,
    isometry_share,
    probed_moments,
    squared_moments,
)
from gradscope.problem import as_problem
from gradscope.progress import progress

if TYPE_CHECKING:
    import pandas as pd

# Up to this many passes, and entries of all Jacobians together, singular values are computed one by one unasked.
PASSES = 512
ENTRIES = 2**28
PROBES = 64

_COLUMNS = [
    *("batch_norm", "start", "end", "method", "quantity", "unit", "example", "index"),
    *("value", "low", "high", "standard_error", "n", "status", "reason"),
]
_PER = "output per input"
_MOMENTS = {
    "squared_singular_value_mean": f"({_PER})^2",
    "squared_singular_value_mean_square": f"({_PER})^4",
    "squared_singular_value_variance": f"({_PER})^4",
    "squared_singular_value_relative_variance": "1",
}
_SUMS_OF_SQUARES = ("squared_singular_value_mean", "squared_singular_value_mean_square")
Row = dict[str, Any]


def jacobian_spectrum(
    problem: Any,
    *,
    of: tuple[str, str] = ("input", "output"),
    examples: int = 8,
    probes: int | None = None,
    seed: int = 0,
) -> "pd.DataFrame":
    """Singular values of each example's Jacobian from input to output, or between two sites.

    All equal to 1 is dynamical isometry: signals and gradients keep their length in every direction. Networks of
    rectifiers are never isometric, unless they look linear.

    Args:
        problem: Problem or (model, data); the first batch is used, and needs no targets.
        of: Where from and where to: `input`, `output`, or the dotted path of a module that runs once.
        examples: How many of the batch's first examples.
        probes: Random vectors to estimate the moments with, at least 3; costs a backward pass each. 0 computes all
            singular values, by a pass for each output or for each input, whichever are fewer. None does that where it
            takes at most 512 passes (and all Jacobians together have at most 2^28 entries), and else takes 64 probes.
        seed: Of the probes.

    Returns:
        Frame with columns `batch_norm`, `start`, `end`, `method` (`reverse` or `forward` mode, `probes`), `quantity`,
        `unit`, `example`, `index` (of a singular value, largest first; else -1), `value`, `low`, `high` (95 %) and
        `standard_error` of estimates, `n` (singular values, or probes), `status`, `reason`. With D = min(numbers at
        the end, numbers at the start) singular values s, for each example:

        - `singular_value`; `largest_singular_value`, `smallest_singular_value`, `jacobian_condition_number` (their
          quotient, undefined where the smallest is zero to rounding); not by probes;
        - `isometry_share`: share of them within [0.5, 2]; not by probes. 1 is called dynamical isometry here;
        - `squared_singular_value_mean`, `squared_singular_value_mean_square`: first and second moment of s^2, the
          normalised traces of J J^T and its square; `squared_singular_value_variance`, and
          `squared_singular_value_relative_variance`, that over the squared mean. By probes the first two have an
          interval symmetric on a logarithmic scale; the other two, estimates without bias of what is at least 0, one
          that may reach below.

    Raises:
        ValueError: As `live_jacobian`; one or two probes; probes=0 and more than 2^28 entries.

    Source:
        Pennington et al. (2017), arXiv:1711.04735, and (2018), arXiv:1802.09979; Hutchinson (1989) for the probes.
    """
    import pandas as pd

    whole = isinstance(probes, int) and not isinstance(probes, bool)
    if probes is not None and (not whole or 0 != probes < 3):
        raise ValueError(f"probes is None, 0 for all singular values, or at least 3, got {probes!r}.")
    problem = as_problem(problem)
    label = problem.batch_norm_name
    warn_of_mixing(problem)
    with live_jacobian(problem, of, examples) as jacobian:
        reason = ""
        if probes is None:
            reason = _too_much(jacobian)
            probes = PROBES if reason else 0
        elif probes == 0 and jacobian.entries > ENTRIES:
            raise ValueError(
                f"All singular values need Jacobians of {jacobian.entries} entries, more than {ENTRIES}. Take fewer "
                "examples, or probes."
            )
        if probes == 0:
            rows, method = _dense_rows(jacobian)
        else:
            rows, method = list(_probed_rows(jacobian, probes, seed)), "probes"
            rows = [row | {"reason": row["reason"] or reason} for row in rows]
    start, end = of
    return pd.DataFrame(rows).assign(batch_norm=label, start=start, end=end, method=method)[_COLUMNS]


def _too_much(jacobian: LiveJacobian) -> str:
    """Why singular values are not computed unasked; empty where they are."""
    instead = "moments are estimated (probes=0 computes all singular values)"
    if jacobian.passes > PASSES:
        return f"{jacobian.passes} passes are more than {PASSES}: {instead}"
    if jacobian.entries > ENTRIES:
        return f"{jacobian.entries} entries of Jacobians are more than {ENTRIES}: {instead}"
    return ""


def _dense_rows(jacobian: LiveJacobian) -> tuple[list[Row], str]:
    with progress("rows or columns of the Jacobian", min(jacobian.shape)) as advance:
        matrices, mode = jacobian.dense(advance)
    rows: list[Row] = []
    for example, matrix in enumerate(matrices):
        if not bool(torch.isfinite(matrix).all()):
            reason = "entries of the Jacobian are infinite or NaN"
            rows.append(_row("singular_value", _PER, example, math.nan, 0, status="overflow", reason=reason))
            continue
        values = torch.linalg.svdvals(matrix.double())
        rows += [
            _row("singular_value", _PER, example, float(s), len(values), index=i)
            for i, s in enumerate(values)
        ]
        rows += _extreme_rows(example, values, max(matrix.shape) * torch.finfo(matrix.dtype).eps)
        rows += _moment_rows(example, squared_moments(values), None, len(values))
    return rows, mode


def _extreme_rows(example: int, values: Tensor, tolerance: float) -> list[Row]:
    n = len(values)
    largest, smallest = float(values[0]), float(values[-1])
    singular = smallest <= tolerance * largest
    share = isometry_share(values)
    lowest, highest = ISOMETRY
    all_or_not = "all of them, dynamical isometry" if share == 1 else "not all of them, no dynamical isometry"
    condition: Row = {"value": math.nan if singular else largest / smallest}
    if singular:
        condition |= {"status": "undefined", "reason": "the smallest singular value is zero to rounding"}
    return [
        _row("largest_singular_value", _PER, example, largest, n),
        _row("smallest_singular_value", _PER, example, smallest, n),
        _row("jacobian_condition_number", "1", example, math.nan, n) | condition,
        _row(
            "isometry_share", "1", example, share, n, reason=f"within [{lowest:g}, {highest:g}]: {all_or_not}"
        ),
    ]


def _probed_rows(jacobian: LiveJacobian, probes: int, seed: int) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(seed)
    outputs, inputs = jacobian.shape
    pulled = []
    with progress("probes of the Jacobian", probes) as advance:
        for _ in range(probes):
            signs = torch.randint(0, 2, (jacobian.examples, outputs), generator=generator) * 2 - 1
            pulled.append(jacobian.transposed(signs.to(jacobian.end)))
            advance(1)
    for example, rows in enumerate(torch.stack(pulled, dim=1).double()):
        moments, errors = probed_moments(rows @ rows.T, min(outputs, inputs))
        yield from _moment_rows(example, moments, errors, probes)


def _moment_rows(example: int, moments: Moments, errors: Moments | None, n: int) -> list[Row]:
    rows = []
    for at, (name, unit) in enumerate(_MOMENTS.items()):
        row = _row(name, unit, example, moments[at], n)
        if not math.isfinite(moments[at]):
            row |= {
                "value": math.nan,
                "status": "undefined",
                "reason": "the Jacobian is zero or its powers overflow",
            }
        elif errors is not None:
            row |= {"standard_error": errors[at]} | _interval(name, moments[at], _student(n - 1) * errors[at])
        rows.append(row)
    return rows


def _interval(name: str, value: float, half: float) -> Row:
    """95 %, of the logarithm where the estimate is a sum of squares, which no interval of its own passes below 0."""
    if name in _SUMS_OF_SQUARES and half / value < 700:
        return {"low": value / math.exp(half / value), "high": value * math.exp(half / value)}
    below = "the estimate has no bias, so that its interval may reach below 0, the least it can be"
    return {"low": value - half, "high": value + half, "reason": below if value - half < 0 else ""}


def _row(quantity: str, unit: str, example: int, value: float, n: int, **more: Any) -> Row:
    row = {"quantity": quantity, "unit": unit, "example": example, "index": -1, "value": value, "n": n}
    blank = {"low": math.nan, "high": math.nan, "standard_error": math.nan, "status": "ok", "reason": ""}
    return row | blank | more


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
