"""Condition numbers, each under the name of its definition."""

import numpy
import pandas
from torch import Tensor

from gradscope.curvature.condition_definitions import kappa_lower, of_all, of_extremes
from gradscope.curvature.operators import Operator

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
        found = kappa_lower(operator, max_products, seed)
    elif definition in ("extreme_ratio", "percentile_10"):
        found = of_all(operator, 0.0 if definition == "extreme_ratio" else 10.0)
    else:
        found = of_extremes(operator, definition, learning_rate or 1.0, tolerance, max_products, seed)
    row = {"quantity": "condition_number", "unit": "1", "definition": definition}
    conditions = operator.conditions if isinstance(operator, Operator) else {}
    return pandas.DataFrame([conditions | row | vars(found)])
