"""Condition numbers, each under the name of its definition."""

import numpy
import pandas
from torch import Tensor

from gradscope.curvature.bulk_edge import bulk_edge_ratio
from gradscope.curvature.condition_bounds import kappa_lower, kappa_resolved
from gradscope.curvature.condition_definitions import DEFINITIONS
from gradscope.curvature.condition_evidence import Evidence, Found, of_dense, of_run, of_values
from gradscope.curvature.condition_ratios import (
    damped,
    learning_rate_product,
    negative_ratio,
    of_all,
    top_ratio,
)
from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.operators import Operator, require_operator

# How many eigenvalues, and at which ends, a definition takes of those that few products can give.
_ENDS = {
    "negative_ratio": (1, "both"),
    "top_ratio": (5, "largest"),
    "learning_rate_product": (1, "largest"),
    "damped": (1, "both"),
    "gauss_newton_damped": (1, "both"),
}
_RATES = {
    "learning_rate_product": "learning_rate",
    "damped": "damping",
    "gauss_newton_damped": "damping",
}


def condition_number(
    operator: Operator | pandas.DataFrame | Tensor | numpy.ndarray,
    definition: str,
    *,
    learning_rate: float | None = None,
    damping: float | None = None,
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
        definition: A name of `DEFINITIONS`, where the meaning, use and needs of each are told:
            `extreme_ratio`, `percentile_10`: need all eigenvalues, hence P <= 5000.
            `negative_ratio`, `top_ratio`, `learning_rate_product`, `damped`, `gauss_newton_damped`: from extreme
            eigenvalues.
            `bulk_edge_ratio`: from as many of the largest eigenvalues as `max_products` resolve.
            `kappa_lower`: max |theta| over the smallest singular value of the extended tridiagonal
            matrix of `max_products` steps; needs an operator. So does `kappa_resolved`.
        learning_rate: For `learning_rate_product`, positive.
        damping: For `damped` and `gauss_newton_damped`, positive, in the operator's unit; leave out what the
            operator holds already as its weight decay.
        tolerance, max_products, seed: Of the Lanczos run, as in `extreme_eigenvalues`.

    Returns:
        One row: `quantity` ("condition_number"), `unit`, `definition`, `value`, `low`, `high`, `status`,
        `reason`. The interval follows from the eigenvalues' residual bounds or rounding; a bound has
        no `high` but infinity. "undefined" with NaN where the definition needs what cannot be had;
        "unconverged" where an eigenvalue it uses has not converged.

    Raises:
        ValueError: The definition is unknown (the table is shown), or a learning rate or damping is missing.

    Source:
        Li et al. (2016), Demystifying ResNet, arXiv:1611.01186; Foret et al. (2020), arXiv:2010.01412
        (lambda_1 / lambda_5); Li et al. (2017), arXiv:1712.09913 (negative ratio); Cohen et al. (2021),
        arXiv:2103.00065 (learning rate times lambda_max); Sagun et al. (2016), arXiv:1611.07476 (bulk edge).
    """
    if definition not in DEFINITIONS:
        table = "\n".join(f"  {name}: {one.meaning}" for name, one in DEFINITIONS.items())
        raise ValueError(f"No condition number is called {definition!r}. There are:\n{table}")
    given = {"learning_rate": learning_rate, "damping": damping}
    check_positive(given)
    if definition in _RATES and given[_RATES[definition]] is None:
        raise ValueError(f"{definition} needs {_RATES[definition]} > 0, got None.")
    evidence = _evidence(operator, definition, tolerance, max_products, seed)
    row = {"quantity": "condition_number", "unit": "1", "definition": definition}
    conditions = operator.conditions if isinstance(operator, Operator) else {}
    found = evaluate(definition, evidence, learning_rate, damping)
    return pandas.DataFrame([conditions | row | vars(found)])


def check_positive(given: dict[str, float | None]) -> None:
    """Raise ValueError where a number that is given is not positive and finite."""
    for name, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} > 0 is needed, got {value}.")


def evaluate(
    definition: str, evidence: Evidence, learning_rate: float | None, damping: float | None
) -> Found:
    """One definition on what is known of a spectrum."""
    match definition:
        case "extreme_ratio":
            return of_all(evidence, 0.0)
        case "percentile_10":
            return of_all(evidence, 10.0)
        case "negative_ratio":
            return negative_ratio(evidence)
        case "top_ratio":
            return top_ratio(evidence)
        case "learning_rate_product":
            return learning_rate_product(evidence, learning_rate)
        case "bulk_edge_ratio":
            return bulk_edge_ratio(evidence)
        case "kappa_lower":
            return kappa_lower(evidence)
        case "kappa_resolved":
            return kappa_resolved(evidence)
        case _:
            return damped(evidence, damping, semidefinite=definition == "gauss_newton_damped")


def _evidence(
    given: Operator | pandas.DataFrame | Tensor | numpy.ndarray,
    definition: str,
    tolerance: float,
    max_products: int,
    seed: int,
) -> Evidence:
    """As much as one definition needs."""
    if isinstance(given, pandas.DataFrame):
        why = "needs all eigenvalues: pass the operator (P <= 5000), or all eigenvalues as a tensor"
        return Evidence(frame=given, why_not_all=why)
    if isinstance(given, Tensor | numpy.ndarray | list):
        return of_values(given)
    require_operator(given, "condition_number")
    if definition in ("extreme_ratio", "percentile_10"):
        return of_dense(given)
    if definition not in _ENDS:
        return of_run(given, max_products, seed, tolerance)
    k, ends = _ENDS[definition]
    frame = extreme_eigenvalues(
        given, k, ends=ends, tolerance=tolerance, max_products=max_products, seed=seed
    )
    return Evidence(frame=frame)
