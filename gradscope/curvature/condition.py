"""Condition numbers, each under the name of its definition."""

from dataclasses import dataclass
from typing import Any

import numpy
import pandas
import torch
from torch import Tensor

from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import DENSE_LIMIT, Operator

DEFINITIONS = {
    "extreme_ratio": "largest over smallest absolute eigenvalue (all eigenvalues needed)",
    "percentile_10": "largest over the 10th percentile of the absolute eigenvalues (all eigenvalues needed)",
    "negative_ratio": "absolute smallest over largest eigenvalue, |lambda_min| / lambda_max",
    "top_ratio": "largest over fifth-largest eigenvalue, lambda_1 / lambda_5",
    "kappa_lower": "a rigorous lower bound on extreme_ratio from a Lanczos run; it grows with max_products",
    "learning_rate_product": "learning rate times largest eigenvalue; gradient descent is unstable above 2",
}


def condition_number(
    operator: Operator | pandas.DataFrame | Tensor | numpy.ndarray,
    definition: str,
    *,
    learning_rate: float | None = None,
    tolerance: float = 1e-3,
    max_products: int = 300,
    seed: int = 0,
) -> pandas.DataFrame:
    """A condition number by a named definition; there is no default, since they disagree.

    For indefinite operators absolute eigenvalues are compared (Li et al. 2016 in theory the extreme
    ratio, in experiments the 10th percentile, "because minima are very unstable"). The percentile is
    numpy.percentile's default, linear between order statistics, over all P eigenvalues. A smallest
    value of zero to rounding gives an infinite number with a finite `low`.

    Args:
        operator: An `Operator`; or the frame of `extreme_eigenvalues`; or all eigenvalues, [P].
        definition: A name of `DEFINITIONS`:
            `extreme_ratio`, `percentile_10`: need all eigenvalues, hence P <= 5000.
            `negative_ratio`, `top_ratio`, `learning_rate_product`: from extreme eigenvalues.
            `kappa_lower`: max |theta| over the smallest singular value of the extended tridiagonal
            matrix of `max_products` steps; needs an operator.
        learning_rate: For `learning_rate_product`.
        tolerance, max_products, seed: Of the Lanczos run, as in `extreme_eigenvalues`.

    Returns:
        One row: `quantity` ("condition_number"), `unit`, `definition`, `value`, `low`, `high`, `status`,
        `reason`. The interval follows from the eigenvalues' residual bounds or rounding; a bound has
        no `high` but infinity. "undefined" with NaN where the definition needs what cannot be had;
        "unconverged" where an eigenvalue it uses has not converged.

    Raises:
        ValueError: The definition is unknown (the table is shown), or a learning rate is missing.

    Source:
        Li et al. (2016), Demystifying ResNet, arXiv:1611.01186; Foret et al. (2020), arXiv:2010.01412
        (lambda_1 / lambda_5); Li et al. (2017), arXiv:1712.09913 (negative ratio); Cohen et al. (2021),
        arXiv:2103.00065 (learning rate times lambda_max).
    """
    if definition not in DEFINITIONS:
        table = "\n".join(f"  {name}: {meaning}" for name, meaning in DEFINITIONS.items())
        raise ValueError(f"No condition number is called {definition!r}. There are:\n{table}")
    if definition == "learning_rate_product" and not (learning_rate is not None and learning_rate > 0):
        raise ValueError(f"learning_rate_product needs learning_rate > 0, got {learning_rate}.")
    if definition == "kappa_lower":
        found = _kappa_lower(operator, max_products, seed)
    elif definition in ("extreme_ratio", "percentile_10"):
        found = _of_all(operator, 0.0 if definition == "extreme_ratio" else 10.0)
    else:
        found = _of_extremes(operator, definition, learning_rate or 1.0, tolerance, max_products, seed)
    row = {"quantity": "condition_number", "unit": "1", "definition": definition}
    return pandas.DataFrame([row | vars(found)])


@dataclass
class _Found:
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


def _undefined(reason: str) -> _Found:
    return _Found(float("nan"), float("nan"), float("nan"), "undefined", reason)


def _of_all(operator: Any, percentile: float) -> _Found:
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
        return _Found(float("inf"), low, float("inf"), reason=reason)
    return _Found(largest / small, low, (largest + noise) / (small - noise))


def _of_extremes(
    operator: Any, definition: str, learning_rate: float, tolerance: float, max_products: int, seed: int
) -> _Found:
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
        found = _Found(learning_rate * top.value, learning_rate * top.low, learning_rate * top.high)
    else:
        found = _ratio(*known, absolute=definition == "negative_ratio")
    if found.status == "ok" and not all(value.converged for value in known):
        found.status, found.reason = "unconverged", "an eigenvalue it uses has not converged"
    return found


def _ratio(above: _Eigenvalue, below: _Eigenvalue, *, absolute: bool) -> _Found:
    if not below.value > 0:
        which = "largest" if absolute else "fifth-largest"
        return _undefined(f"the {which} eigenvalue, {below.value:.6g}, is not positive")
    low, high = above.low, above.high
    if absolute:
        ends = sorted((abs(low), abs(high)))
        low, high = (0.0 if above.low <= 0 <= above.high else ends[0]), ends[1]
    value = abs(above.value) if absolute else above.value
    return _Found(value / below.value, low / below.high, high / below.low if below.low > 0 else float("inf"))


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


def _kappa_lower(operator: Any, max_products: int, seed: int) -> _Found:
    if not isinstance(operator, Operator):
        return _undefined("is read off a Lanczos run: pass the operator")
    run = Lanczos(operator, seed=seed)
    while not run.exhausted and run.steps < max_products:
        run.step()
    bound = lower_bound(run)
    if bound == 0:
        return _undefined(f"no non-zero eigenvalue was found in {run.steps} products")
    reason = f"a lower bound, from {run.steps} products"
    return _Found(bound, bound, float("inf"), reason=reason)


def lower_bound(run: Lanczos) -> float:
    """max |theta| / sigma_min of the extended tridiagonal matrix, both moved by rounding to the safe side.

    For any unit u, |lambda|_min <= |A u|; the smallest such value over the Krylov space is sigma_min.
    It does not decrease as the run goes on. Zero if nothing but zero was seen.
    """
    largest = max(0.0, float(numpy.abs(run.ritz()[0]).max()) - run.noise)
    smallest = float(numpy.linalg.svd(run.extended(), compute_uv=False)[-1]) + run.noise
    return largest / smallest if largest > 0 else 0.0
