"""The curvature within one block of parameters, from its matrix or from products with it."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.curvature.condition_bounds import kappa_lower
from gradscope.curvature.condition_evidence import Evidence, Found
from gradscope.curvature.condition_ratios import of_all
from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.operators import Operator
from gradscope.curvature.trace import trace
from gradscope.curvature.units import EIGENVALUE
from gradscope.studies.curvature.conditions import NOT_FORMED, of_spectrum
from gradscope.studies.curvature.exact import extreme_rows, trace_rows
from gradscope.studies.curvature.extremes import Budget, extremes
from gradscope.studies.curvature.rows import reading, values_of

if TYPE_CHECKING:
    import pandas as pd

NAMES = {1: "lambda_max", -1: "lambda_min"}
TRACES = ("trace", "trace_of_square", "participation_ratio")
ONLY_ZEROS = "no eigenvalue but zero was found"

Rows = list[dict[str, Any]]


def exact_rows(matrix: Tensor, dtype: torch.dtype, products: int) -> Rows:
    """What one block's matrix says, [Pb, Pb] in float64, whose products ran in `dtype`."""
    spectrum = torch.linalg.eigvalsh(matrix)
    rows = _ends(extreme_rows(spectrum, 1, dtype, products)) + trace_rows(spectrum, products)
    ratio = of_all(of_spectrum(spectrum, dtype), 0.0)
    why = "" if ratio.status == "ok" else ratio.reason
    bound = Found(ratio.low, ratio.low, math.inf, ratio.status, why or "from all eigenvalues, less rounding")
    return [
        *rows,
        _top_share(rows, products),
        _named("kappa_lower", bound, products),
        _named("extreme_ratio", ratio, products),
    ]


def estimated_rows(operator: Operator, budget: Budget, accuracy: float) -> Rows:
    """What products with one block's operator say: a Lanczos run for both ends, and a trace."""
    found = extremes(operator, 1, budget)
    rows = _ends(found.frame)
    totals = trace(operator, accuracy=accuracy, max_products=budget.max_products, seed=budget.seed)
    rows += [
        reading(name, unit=str(row["unit"]), **values_of(row)) | {"products": int(row["products"])}
        for name in TRACES
        for row in totals[totals["quantity"] == name].to_dict("records")
    ]
    return [
        *rows,
        _top_share(rows, found.products + rows[-1]["products"]),
        _named("kappa_lower", kappa_lower(Evidence(run=found.run)), found.products),
        reading("extreme_ratio", math.nan, reason=NOT_FORMED) | {"products": 0},
    ]


def coupling_row(operator: Operator, budget: Budget) -> dict[str, Any]:
    """The norm of an off-diagonal block, as the largest eigenvalue of its coupling operator."""
    options = budget._asdict()
    (top,) = extreme_eigenvalues(operator, 1, ends="largest", **options).to_dict("records")
    told = values_of(top)
    # A product with the coupling is two with the Hessian.
    return _coupling(told | {"low": max(0.0, told["low"])}, 2 * int(top["products"]))


def exact_coupling_row(matrix: Tensor, noise: float, products: int) -> dict[str, Any]:
    """The norm of an off-diagonal block, [Pa, Pb], known to within `noise`."""
    norm = float(torch.linalg.matrix_norm(matrix, ord=2))
    return _coupling({"value": norm, "low": max(0.0, norm - noise), "high": norm + noise}, products)


def _coupling(told: dict[str, Any], products: int) -> dict[str, Any]:
    return reading("coupling", unit=EIGENVALUE, **told) | {"products": products}


def _ends(frame: "pd.DataFrame") -> Rows:
    return [
        reading(NAMES[int(row["rank"])], unit=EIGENVALUE, **values_of(row))
        | {"products": int(row["products"])}
        for row in frame.to_dict("records")
    ]


def _named(quantity: str, found: Found, products: int) -> dict[str, Any]:
    return reading(quantity, **vars(found)) | {"products": products}


def _top_share(rows: Rows, products: int) -> dict[str, Any]:
    """The largest eigenvalue in absolute value, squared, over the trace of the square."""
    named = {row["quantity"]: row for row in rows}
    square = named["trace_of_square"]
    ends = [named[name] for name in NAMES.values()]
    top = max(ends, key=lambda row: abs(row["value"]))
    if not square["value"] > 0 or math.isnan(top["value"]):
        return reading("top_share", math.nan, reason=ONLY_ZEROS) | {"products": products}
    least, most = sorted((abs(top["low"]), abs(top["high"])))
    low = least**2 / square["high"]
    high = min(1.0, most**2 / square["low"]) if square["low"] > 0 else 1.0
    open_ones = [row for row in (*ends, square) if row["status"] != "ok"]
    status, reason = ("unconverged", open_ones[0]["reason"]) if open_ones else ("ok", "")
    value = min(1.0, top["value"] ** 2 / square["value"])
    return reading(
        "top_share", value, low=min(low, value), high=max(high, value), status=status, reason=reason
    ) | {"products": products}
