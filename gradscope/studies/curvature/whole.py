"""What is measured of a whole network's Hessian: from its matrix, or from products with it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradscope.curvature.condition_evidence import Evidence
from gradscope.curvature.density import spectral_density
from gradscope.curvature.operators import MatrixOperator, Operator
from gradscope.curvature.problem_operator import ProblemOperator
from gradscope.curvature.trace import trace
from gradscope.studies.curvature.along_training import eigenvalue_rows, rate_rows
from gradscope.studies.curvature.conditions import (
    condition_rows,
    of_lanczos,
    of_spectrum,
    outlier_row,
    undecayed,
)
from gradscope.studies.curvature.exact import beyond_rows, extreme_rows, share_negative, trace_rows
from gradscope.studies.curvature.extremes import Budget, extremes
from gradscope.studies.curvature.rows import reading, values_of

if TYPE_CHECKING:
    import pandas as pd

OF_EXTREMES = ("negative_ratio", "top_ratio", "bulk_edge_ratio")
OF_RUNS = ("kappa_lower", "kappa_resolved")
OF_ALL = ("extreme_ratio", "percentile_10")
OF_SHARES = ("negative_share", "share_above", "absolute_trace")
OF_TRACES = ("trace", "trace_of_square", "participation_ratio")

Rows = list[dict[str, Any]]


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        k: Eigenvalues at each end.
        budget: Of Lanczos runs, and of the trace.
        accuracy: Relative standard error of the trace.
        probes, steps: Of the density.
        rate: Learning rate, or None.
        limit: Of stability.
        weight_decay: What the operator has on its diagonal as it is; 0 where it is preconditioned.
    """

    k: int
    budget: Budget
    accuracy: float
    probes: int
    steps: int
    rate: float | None
    limit: float
    weight_decay: float


def formed(
    operator: ProblemOperator, wanted: Wanted, advance: Callable[[int], None]
) -> tuple[Rows, "pd.DataFrame"]:
    """Rows from all eigenvalues, and the frame of the density, at P products, of which `advance` is told."""
    with _watched(operator, operator.shape[0], advance):
        matrix = operator.dense()
    matrix = (matrix + matrix.T) / 2
    size = len(matrix)
    spectrum = torch.linalg.eigvalsh(matrix)
    known = of_spectrum(spectrum, operator.dtype)
    rows = eigenvalue_rows(extreme_rows(spectrum, wanted.k, operator.dtype, size))
    rows += [*_named(known, (*OF_EXTREMES, *OF_ALL), wanted), share_negative(spectrum, operator.dtype)]
    rows = _with_products(rows, size) + rate_rows(known, wanted.rate, wanted.limit)
    totals = trace_rows(spectrum, size)
    rows += [*totals, _effective_rank(rows, totals)]
    density = _density(MatrixOperator(matrix.to(operator.dtype)), wanted).assign(products=size)
    # Its estimates of what all eigenvalues tell are passed over, but for where they count from.
    shares = density["quantity"].isin(OF_SHARES)
    threshold = float(density.loc[density["quantity"] == "share_above", "threshold"].iloc[0])
    rows += beyond_rows(spectrum, threshold, operator.dtype, size)
    return rows, density[~shares]


def by_products(
    operator: ProblemOperator, wanted: Wanted, advance: Callable[[int], None]
) -> tuple[Rows, "pd.DataFrame"]:
    """The same from a Lanczos run, a density and a trace; `advance` is told of products made and spared."""
    budget = wanted.budget
    with _watched(operator, budget.max_products, advance):
        found = extremes(operator, wanted.k, budget)
    with _watched(operator, wanted.probes * min(wanted.steps, operator.shape[0]), advance):
        density = _density(operator, wanted)
    about: dict[str, Any] = {"max_products": budget.max_products, "seed": budget.seed}
    with _watched(operator, budget.max_products, advance):
        estimated = trace(operator, accuracy=wanted.accuracy, **about)
    known = of_lanczos(found, budget.tolerance)
    rows = eigenvalue_rows(found.frame) + _named(known, (*OF_EXTREMES, *OF_RUNS), wanted)
    rows = _with_products(rows, found.products) + rate_rows(known, wanted.rate, wanted.limit)
    totals = [
        reading(str(row["quantity"]), unit=str(row["unit"]), **values_of(row))
        | {name: row[name] for name in ("standard_error", "n", "products")}
        for row in estimated.to_dict("records")
    ]
    return [*rows, *totals, _effective_rank(rows, totals)], density


@contextmanager
def _watched(operator: Operator, most: int, advance: Callable[[int], None]) -> Iterator[None]:
    """Tell `advance` of each product, and in the end of those that were spared of the `most` there might have been."""
    left = most

    def watch(products: int) -> None:
        nonlocal left
        advance(min(products, left))
        left -= min(products, left)

    operator.watch = watch
    try:
        yield
    finally:
        operator.watch = None
    if left:
        advance(left)


def _density(operator: Operator, wanted: Wanted) -> "pd.DataFrame":
    """Without its traces, which `trace` estimates to an accuracy."""
    frame = spectral_density(operator, probes=wanted.probes, steps=wanted.steps, seed=wanted.budget.seed)
    return frame[~frame["quantity"].isin(OF_TRACES)]


def _named(known: Evidence, definitions: Sequence[str], wanted: Wanted) -> Rows:
    decay = wanted.weight_decay
    return [
        outlier_row(known),
        *condition_rows(known, definitions),
        *(condition_rows(undecayed(known, decay), ["damped"], damping=decay) if decay > 0 else []),
    ]


def _effective_rank(rows: Rows, totals: Rows) -> dict[str, Any]:
    """tr H / lambda_max, with the ends of both."""
    top = next(row for row in rows if row["quantity"] == "lambda_max")
    whole = next(row for row in totals if row["quantity"] == "trace")
    if not (top["value"] > 0 and top["low"] > 0):
        reason = "lambda_max is not positive beyond its residual"
        return reading("trace_over_lambda_max", math.nan, reason=reason)
    ends = [whole[one] / top[other] for one in ("low", "high") for other in ("low", "high")]
    open_ones = [row for row in (top, whole) if row["status"] != "ok"]
    status, reason = ("unconverged", open_ones[0]["reason"]) if open_ones else ("ok", "")
    value = whole["value"] / top["value"]
    return reading(
        "trace_over_lambda_max", value, low=min(ends), high=max(ends), status=status, reason=reason
    )


def _with_products(rows: Rows, products: int) -> Rows:
    return [row | {"products": products} for row in rows]
