"""The largest and smallest eigenvalues of an operator, each with a bound on its error."""

from collections.abc import Callable
from itertools import islice

import pandas
from torch import Tensor

from gradscope.curvature.extremes import ENDS, Found, converged_run
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import Operator
from gradscope.curvature.settled import settled, small_residuals
from gradscope.curvature.units import EIGENVALUE


def extreme_eigenvalues(
    operator: Operator,
    k: int = 5,
    *,
    ends: str = "both",
    tolerance: float = 1e-3,
    max_products: int = 300,
    max_basis_bytes: int = 2**31,
    seed: int = 0,
    start: Tensor | None = None,
    callback: Callable[[Lanczos], None] | None = None,
) -> pandas.DataFrame:
    """The k algebraically largest and smallest eigenvalues, by Lanczos.

    Args:
        operator: Symmetric, [P, P]. All eigenvalues are given where P is smaller than asked.
        k: How many at each end, at least 1.
        ends: `both`, `largest` or `smallest` (the most negative).
        tolerance: An eigenvalue has converged when its residual is below half of `tolerance` times the
            largest absolute value found, and below a tenth of its own: within the dense bulk around
            zero any value has some eigenvalue near it, which says nothing of its rank.
        max_products: Products after which the run ends, converged or not.
        max_basis_bytes: Memory for the Lanczos basis. When it is full, the run keeps the outermost Ritz
            vectors and goes on (thick restart).
        seed: Of the random start.
        start: Where to start from: one vector, [P], or several, [k, P], such as the eigenvectors of the
            same network some training steps ago, which may save products. With k = 1 the run starts at
            random all the same: no value of another start is certain without one.
        callback: Called with the run after each product, for progress.

    Returns:
        One row per eigenvalue: `quantity` ("eigenvalue"), `unit`, `rank` (1, 2, ... from the top,
        -1, -2, ... from the bottom), `value`, `low` and `high` (value minus and plus the residual:
        some eigenvalue lies between), `residual`, `converged`, `status` ("ok" or "unconverged"),
        `reason`, `products`. A converged value is within `tolerance` times the largest absolute value of
        the eigenvalue of its rank, copies counted. That is confirmed by a second start from a random
        vector orthogonal to those found (not where only rank 1 is asked for, or was reached): its
        outermost value must lie further in, with a residual below a quarter of the distance, or have
        converged itself. What a random vector knows nothing of stays unseen, so this is no proof. It made
        runs with k = 5 on a ResNet-20, fresh and after an epoch, 1.4 to 1.7 times as long as finding the
        values (59 to 70 products for both ends; 1.5 to 1.9 times from a warm start); a quarter of
        `max_products` is kept for it. Rank 1 alone is not confirmed: with a basis of six vectors and a
        tolerance of 1e-2 the edge of a dense bulk was once called converged where it was 0.02 of the
        largest value off. A row is converged only if those further out are.

    Raises:
        ValueError: k, ends, tolerance or a limit makes no sense; fewer vectors fit into `max_basis_bytes`
            than a restarted run needs; `start` is no vector of the operator's; the operator is not symmetric.
        FloatingPointError: A product is not finite.
    """
    found = converged_run(
        operator,
        k,
        ends=ends,
        tolerance=tolerance,
        max_products=max_products,
        max_basis_bytes=max_basis_bytes,
        seed=seed,
        start=start,
        callback=callback,
    )
    return found_frame(found, k, ends, tolerance)


def found_frame(found: Found, k: int, ends: str, tolerance: float) -> pandas.DataFrame:
    """The rows of `extreme_eigenvalues`, read off its runs."""
    rows = [
        row
        for end in ENDS[ends]
        for row in _rows(found.run, end, k, tolerance, found.products, found.certain[end])
    ]
    return pandas.DataFrame([found.run.operator.conditions | row for row in rows])


def eigenvalue_frame(run: Lanczos, k: int, ends: str, tolerance: float) -> pandas.DataFrame:
    """Rows as of `extreme_eigenvalues`, read off one run: no second start has confirmed their ranks."""
    rows = [row for end in ENDS[ends] for row in _rows(run, end, k, tolerance, run.steps, run.size)]
    return pandas.DataFrame([run.operator.conditions | row for row in rows])


def _rows(
    run: Lanczos, end: int, k: int, tolerance: float, products: int, confirmed: int
) -> list[dict[str, object]]:
    values, residuals = run.ritz()
    certain, smallness = settled(run, end, tolerance), small_residuals(run, end, tolerance)
    certain[confirmed:] = False
    rows = []
    found = zip(values[::-end], residuals[::-end], smallness, certain, strict=True)
    for index, (value, residual, small, converged) in enumerate(islice(found, k)):
        why = (
            "its rank is not certain: a value further out has not converged, or may be repeated or missed"
            if small
            else f"residual above {tolerance / 2:g} of the largest absolute value, or a tenth of its own"
        )
        reason = "" if converged else f"{why}, after {products} products (max_products)"
        rows.append(_row(products, end * (index + 1), float(value), float(residual), bool(converged), reason))
    nan = float("nan")
    for index in range(len(rows), min(k, run.operator.shape[0])):
        reason = f"not reached within {products} products (max_products)"
        rows.append(_row(products, end * (index + 1), nan, nan, False, reason))
    return rows


def _row(
    products: int, rank: int, value: float, residual: float, converged: bool, reason: str
) -> dict[str, object]:
    return {
        "quantity": "eigenvalue",
        "unit": EIGENVALUE,
        "rank": rank,
        "value": value,
        "low": value - residual,
        "high": value + residual,
        "residual": residual,
        "converged": converged,
        "status": "ok" if converged else "unconverged",
        "reason": reason,
        "products": products,
    }
