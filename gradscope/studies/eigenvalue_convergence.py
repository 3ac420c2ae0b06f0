"""How many products does it take until an eigenvalue can be trusted?"""

from typing import TYPE_CHECKING, Any

import numpy

from gradscope.curvature.extremes import ENDS
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import Operator, require_operator
from gradscope.curvature.units import EIGENVALUE
from gradscope.progress import progress as shown_progress

if TYPE_CHECKING:
    import pandas as pd


def eigenvalue_convergence(
    operator: Operator,
    k: int = 3,
    *,
    ends: str = "both",
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
    progress: bool | None = None,
) -> "pd.DataFrame":
    """The outermost Ritz values with their residuals after every product of one Lanczos run.

    The residual of a Ritz value bounds its distance to *some* eigenvalue. That this is the one of the row's rank is not
    bounded: while a larger one has not shown itself, rank 1 belongs to another eigenvalue, and a value that stands
    still for a while may move on. So the curve is to be looked at, and not only its last point.

    Args:
        operator: Symmetric, [P, P].
        k: Values at each end.
        ends: `both`, `largest` or `smallest` (the most negative).
        tolerance: A row is "ok" when its residual, and those of all values further out, is at most `tolerance` times
            the largest absolute value found so far.
        max_products: Products, one a step; at most P. The basis keeps as many vectors.
        seed: Of the random start.
        progress: As `show` in `gradscope.progress`.

    Returns:
        A row for each number of products and value: the operator's conditions, `products` (from 1), `quantity`
        ("eigenvalue"), `unit`, `rank` (1, 2, ... from the top, -1, -2, ... from the bottom), `value`, `low` and `high`
        (value minus and plus the residual), `status` ("ok" or "unconverged"), `reason`.

    Raises:
        ValueError: An option out of range, or an operator that is not symmetric.
        FloatingPointError: A product is not finite.
    """
    import pandas as pd

    if k < 1 or max_products < 1 or not tolerance > 0 or ends not in ENDS:
        raise ValueError(
            "eigenvalue_convergence needs k >= 1, max_products >= 1, tolerance > 0 and ends one of both, largest, "
            f"smallest; got k={k!r}, max_products={max_products!r}, tolerance={tolerance!r}, ends={ends!r}."
        )
    require_operator(operator, "eigenvalue_convergence")
    run = Lanczos(operator, seed=seed)
    steps = min(max_products, operator.shape[0])
    rows: list[dict[str, Any]] = []
    with shown_progress("Lanczos steps", steps, show=progress) as advance:
        while run.steps < steps and not run.exhausted:
            run.step()
            rows += [row for end in ENDS[ends] for row in _outermost(run, end, k, tolerance)]
            advance(1)
    return pd.DataFrame([operator.conditions | row for row in rows])


def _outermost(run: Lanczos, end: int, k: int, tolerance: float) -> list[dict[str, Any]]:
    values, residuals = run.ritz()
    allowed = tolerance * float(numpy.abs(values).max())
    rows, worst = [], 0.0
    for place, (value, residual) in enumerate(zip(values[::-end][:k], residuals[::-end][:k], strict=True), 1):
        worst = max(worst, float(residual))
        settled = worst <= allowed or run.exhausted
        why = (
            ""
            if settled
            else f"a residual of {worst:.2g} here or further out, above {tolerance:g} of the largest"
        )
        rows.append(
            {
                "products": run.steps,
                "quantity": "eigenvalue",
                "unit": EIGENVALUE,
                "rank": end * place,
                "value": float(value),
                "low": float(value - residual),
                "high": float(value + residual),
                "status": "ok" if settled else "unconverged",
                "reason": why,
            }
        )
    return rows
