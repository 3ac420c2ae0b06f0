"""The largest and smallest eigenvalues of an operator, each with a bound on its error."""

from collections.abc import Callable
from itertools import islice

import numpy
import pandas

from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import Operator

ENDS = {"both": (1, -1), "largest": (1,), "smallest": (-1,)}


def extreme_eigenvalues(
    operator: Operator,
    k: int = 5,
    *,
    ends: str = "both",
    tolerance: float = 1e-3,
    max_products: int = 300,
    max_basis_bytes: int = 2**31,
    seed: int = 0,
    callback: Callable[[Lanczos], None] | None = None,
) -> pandas.DataFrame:
    """The k algebraically largest and smallest eigenvalues, by one Lanczos run.

    Args:
        operator: Symmetric, [P, P]. All eigenvalues are given where P is smaller than asked.
        k: How many at each end, at least 1.
        ends: `both`, `largest` or `smallest` (the most negative).
        tolerance: An eigenvalue has converged when its residual is below `tolerance` times the
            largest absolute value found, and below a tenth of its own: within the dense bulk around
            zero any value has some eigenvalue near it, which says nothing of its rank.
        max_products: Products after which the run ends, converged or not.
        max_basis_bytes: Memory for the Lanczos basis, which holds one vector a product.
        seed: Of the random start.
        callback: Called with the run after each product, for progress.

    Returns:
        One row per eigenvalue: `quantity` ("eigenvalue"), `unit`, `rank` (1, 2, ... from the top,
        -1, -2, ... from the bottom), `value`, `low` and `high` (value minus and plus the residual:
        some eigenvalue lies between), `residual`, `converged`, `status` ("ok" or "unconverged"),
        `reason`, `products`. A row is converged only if those further out are, for else its rank is
        not certain. Ranks of eigenvalues closer together than their residuals may be exchanged, or one
        of them missing. From one start a repeated eigenvalue counts once; copies are found, and waited
        for, where the Krylov space closes (structured operators, the zero operator among them).

    Raises:
        ValueError: k, ends, tolerance or a limit makes no sense; the operator is not symmetric.
        FloatingPointError: A product is not finite.
    """
    if k < 1 or ends not in ENDS or not tolerance > 0 or max_products < 1:
        raise ValueError(
            "extreme_eigenvalues needs k >= 1, ends one of both, largest, smallest, tolerance > 0 and "
            f"max_products >= 1; got k={k}, ends={ends!r}, tolerance={tolerance}, "
            f"max_products={max_products}."
        )
    run = Lanczos(operator, seed=seed)
    held = max(1, max_basis_bytes // (operator.shape[0] * operator.dtype.itemsize))
    limit = min(max_products, held)
    check_at = 1
    while not run.exhausted and run.steps < limit:
        run.step()
        if callback is not None:
            callback(run)
        if run.steps >= check_at:
            check_at = run.steps + max(1, run.steps // 10)
            if all(_settled(run, end, tolerance)[:k].sum() == k for end in ENDS[ends]):
                break
    limited_by = "max_products" if limit == max_products else "max_basis_bytes"
    rows = [row for end in ENDS[ends] for row in _rows(run, end, k, tolerance, limited_by)]
    return pandas.DataFrame([operator.conditions | row for row in rows])


def _settled(run: Lanczos, end: int, tolerance: float) -> numpy.ndarray:
    """For each Ritz value, from the outermost inwards: has it converged, and is its rank certain?"""
    values, residuals = run.ritz()
    small = numpy.logical_and.accumulate(_small(run, values, residuals, tolerance)[::-end])
    if not run.exhausted and run.block_start > 0:
        small[_ranks_known(run, end, tolerance * numpy.abs(values).max()) :] = False
    return small


def _small(run: Lanczos, values: numpy.ndarray, residuals: numpy.ndarray, tolerance: float) -> numpy.ndarray:
    sizes = numpy.abs(values)
    resolved = residuals <= numpy.maximum(sizes / 10, 10 * run.noise)
    return resolved & (residuals <= tolerance * sizes.max())


def _ranks_known(run: Lanczos, end: int, tolerance: float) -> int:
    """After a closed block: how many of the outermost values no unseen copy can displace.

    The open block sees the operator on the complement of the closed ones, and its outermost value
    is the largest there: all closed values beyond it have their rank, and it has the next.
    """
    closed, opened, bounds = run.blocks()
    if len(opened) == 0:
        return 1
    edge, bound = end * opened[::-end][0], bounds[::-end][0]
    if bound > tolerance:
        return int((end * closed >= edge + bound).sum())
    return int((end * closed >= edge - run.noise).sum()) + 1


def _rows(run: Lanczos, end: int, k: int, tolerance: float, limited_by: str) -> list[dict[str, object]]:
    values, residuals = run.ritz()
    settled = _settled(run, end, tolerance)
    rows: list[dict[str, object]] = []
    smallness = _small(run, values, residuals, tolerance)[::-end]
    found = zip(values[::-end], residuals[::-end], smallness, strict=True)
    for index, (value, residual, small) in enumerate(islice(found, k)):
        converged = bool(settled[index])
        why = (
            "a value further out has not converged, or may be repeated, so the rank is not certain"
            if small
            else f"residual above {tolerance:g} of the largest absolute value, or a tenth of its own"
        )
        rows.append(
            {
                "quantity": "eigenvalue",
                "unit": "loss",
                "rank": end * (index + 1),
                "value": float(value),
                "low": float(value - residual),
                "high": float(value + residual),
                "residual": float(residual),
                "converged": converged,
                "status": "ok" if converged else "unconverged",
                "reason": "" if converged else f"{why}, after {run.steps} products ({limited_by})",
                "products": run.steps,
            }
        )
    for index in range(len(rows), min(k, run.operator.shape[0])):
        rows.append(
            {
                "quantity": "eigenvalue",
                "unit": "loss",
                "rank": end * (index + 1),
                "value": float("nan"),
                "low": float("nan"),
                "high": float("nan"),
                "residual": float("nan"),
                "converged": False,
                "status": "unconverged",
                "reason": f"not reached within {run.steps} products ({limited_by})",
                "products": run.steps,
            }
        )
    return rows
