"""How each definition of a condition number is computed, and how well the result is known."""

from dataclasses import dataclass
from typing import Any

import numpy
import pandas
import torch
from torch import Tensor

from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import DENSE_LIMIT, Operator


@dataclass
class Found:
    """A condition number with its interval."""

    value: float
    low: float
    high: float
    status: str = "ok"
    reason: str = ""


@dataclass
class _Eigenvalue:
    value: float
    low: float
    high: float
    converged: bool = True


def _undefined(reason: str) -> Found:
    return Found(float("nan"), float("nan"), float("nan"), "undefined", reason)


def of_all(operator: Any, percentile: float) -> Found:
    """Largest over a percentile of the absolute eigenvalues (0: the smallest of all)."""
    if isinstance(operator, pandas.DataFrame):
        return _undefined(
            "needs all eigenvalues: pass the operator (P <= 5000), or all eigenvalues as a tensor"
        )
    if isinstance(operator, Operator):
        if operator.shape[0] > DENSE_LIMIT:
            return _undefined(
                f"needs all eigenvalues, and P = {operator.shape[0]} is over {DENSE_LIMIT}; "
                "kappa_lower bounds it from below"
            )
        spectrum, eps = torch.linalg.eigvalsh(operator.dense()).cpu().numpy(), torch.finfo(operator.dtype).eps
    else:
        spectrum, eps = _spectrum(operator)
    sizes = numpy.abs(spectrum)
    largest, small = float(sizes.max()), float(numpy.percentile(sizes, percentile))
    if largest == 0:
        return _undefined("all eigenvalues are zero")
    noise = (10 * eps + len(sizes) * numpy.finfo(float).eps) * largest
    low = (largest - noise) / (small + noise)
    if small <= noise:
        reason = f"the denominator, {small:.3g}, is zero to rounding ({noise:.3g})"
        return Found(float("inf"), low, float("inf"), reason=reason)
    return Found(largest / small, low, (largest + noise) / (small - noise))


def of_extremes(
    operator: Any, definition: str, learning_rate: float, tolerance: float, max_products: int, seed: int
) -> Found:
    """The definitions that need one or two eigenvalues at the ends."""
    ranks = {"negative_ratio": (-1, 1), "top_ratio": (1, 5), "learning_rate_product": (1,)}[definition]
    if isinstance(operator, Operator):
        operator = extreme_eigenvalues(
            operator,
            max(abs(rank) for rank in ranks),
            ends="both" if -1 in ranks else "largest",
            tolerance=tolerance,
            max_products=max_products,
            seed=seed,
        )
    values = [_ranked(operator, rank) for rank in ranks]
    missing = [rank for rank, value in zip(ranks, values, strict=True) if value is None]
    if missing:
        return _undefined(f"the eigenvalue of rank {missing[0]} is not among those given")
    known = [value for value in values if value is not None]
    if definition == "learning_rate_product":
        (top,) = known
        found = Found(learning_rate * top.value, learning_rate * top.low, learning_rate * top.high)
    else:
        found = _ratio(*known, absolute=definition == "negative_ratio")
    if found.status == "ok" and not all(value.converged for value in known):
        found.status, found.reason = "unconverged", "an eigenvalue it uses has not converged"
    return found


def _ratio(above: _Eigenvalue, below: _Eigenvalue, *, absolute: bool) -> Found:
    if not below.value > 0:
        which = "largest" if absolute else "fifth-largest"
        return _undefined(f"the {which} eigenvalue, {below.value:.6g}, is not positive")
    low, high = above.low, above.high
    if absolute:
        ends = sorted((abs(low), abs(high)))
        low, high = (0.0 if above.low <= 0 <= above.high else ends[0]), ends[1]
    value = abs(above.value) if absolute else above.value
    return Found(value / below.value, low / below.high, high / below.low if below.low > 0 else float("inf"))


def _ranked(eigenvalues: Any, rank: int) -> _Eigenvalue | None:
    if isinstance(eigenvalues, pandas.DataFrame):
        rows = eigenvalues[(eigenvalues["quantity"] == "eigenvalue") & (eigenvalues["rank"] == rank)]
        if len(rows) != 1 or not numpy.isfinite(rows["value"].iloc[0]):
            return None
        row = rows.iloc[0]
        return _Eigenvalue(float(row["value"]), float(row["low"]), float(row["high"]), bool(row["converged"]))
    spectrum, eps = _spectrum(eigenvalues)
    if abs(rank) > len(spectrum):
        return None
    value = float(spectrum[-rank] if rank > 0 else spectrum[-rank - 1])
    noise = 10 * eps * float(numpy.abs(spectrum).max())
    return _Eigenvalue(value, value - noise, value + noise)


def _spectrum(eigenvalues: Any) -> tuple[numpy.ndarray, float]:
    """All eigenvalues, ascending, in float64, and the eps of the dtype they came in."""
    array = (
        eigenvalues.detach().cpu().numpy() if isinstance(eigenvalues, Tensor) else numpy.asarray(eigenvalues)
    )
    if array.ndim != 1 or len(array) == 0 or not numpy.isfinite(array).all():
        raise ValueError(
            "condition_number takes an Operator, the frame of extreme_eigenvalues, or all eigenvalues as a "
            f"finite vector [P]; got {type(eigenvalues).__name__} of shape {list(array.shape)}."
        )
    eps = numpy.finfo(array.dtype).eps if array.dtype.kind == "f" else numpy.finfo(float).eps
    return numpy.sort(array.astype(float)), float(eps)


def kappa_lower(operator: Any, max_products: int, seed: int) -> Found:
    """The lower bound of a run of `max_products` steps, or of one that exhausts the space."""
    if not isinstance(operator, Operator):
        return _undefined("is read off a Lanczos run: pass the operator")
    run = Lanczos(operator, seed=seed)
    while not run.exhausted and run.steps < max_products:
        run.step()
    bound = lower_bound(run)
    if bound == 0:
        return _undefined(f"no non-zero eigenvalue was found in {run.steps} products")
    reason = f"a lower bound, from {run.steps} products"
    return Found(bound, bound, float("inf"), reason=reason)


def lower_bound(run: Lanczos) -> float:
    """max |theta| / sigma_min of the extended tridiagonal matrix, both moved by rounding to the safe side.

    For any unit u, |lambda|_min <= |A u|; the smallest such value over the Krylov space is sigma_min.
    It does not decrease as the run goes on. Zero if nothing but zero was seen.
    """
    largest = max(0.0, float(numpy.abs(run.ritz()[0]).max()) - run.noise)
    smallest = float(numpy.linalg.svd(run.extended(), compute_uv=False)[-1]) + run.noise
    return largest / smallest if largest > 0 else 0.0
