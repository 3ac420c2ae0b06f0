"""All condition numbers of one operator, side by side."""

import pandas

from gradscope.curvature.condition import check_positive, evaluate
from gradscope.curvature.condition_definitions import DEFINITIONS
from gradscope.curvature.condition_evidence import Evidence, confirmed, of_dense, of_run
from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.operators import Operator, require_operator

OUTERMOST = 5


def condition_numbers(
    operator: Operator,
    *,
    learning_rate: float | None = None,
    damping: float | None = None,
    tolerance: float = 1e-3,
    max_products: int = 100,
    max_basis_bytes: int = 2**31,
    dense: bool = True,
    seed: int = 0,
) -> pandas.DataFrame:
    """Every definition of a condition number on one operator: they disagree, and each says what it is for.

    Up to P = 5000 all eigenvalues are computed, by P products, and the definitions that eigenvalues decide are
    exact. Else a run that ends when the five outermost at each end have converged and a second start has
    confirmed their ranks serves these. `kappa_lower` and `kappa_resolved` come from a run of their own, which
    goes on to the last product.

    Args:
        operator: Symmetric, [P, P].
        learning_rate: For `learning_rate_product`, positive; None leaves it undefined.
        damping: For `damped` and `gauss_newton_damped`, positive; None leaves them undefined.
        tolerance: When an eigenvalue has converged, as in `extreme_eigenvalues`.
        max_products: Of each run; where the Krylov space or the memory holds fewer, so many.
        max_basis_bytes: Memory for a run, one vector of [P] a step.
        dense: False spares the P products: what needs all eigenvalues is then undefined.
        seed: Of the run's start.

    Returns:
        One row per definition, in the order of `DEFINITIONS`: `quantity` ("condition_number"), `unit`,
        `definition`, `value`, `low`, `high`, `products`, `status`, `reason`, `use` (what it is for) and `needs`
        (what it takes, and when it cannot be had). "undefined" with NaN where it cannot be had here.

    Raises:
        ValueError: learning_rate or damping is not positive; no room for 14 vectors where P > 5000; not symmetric.
        FloatingPointError: A product is not finite.
    """
    require_operator(operator, "condition_numbers")
    check_positive({"learning_rate": learning_rate, "damping": damping})
    before = operator.products
    known = of_run(operator, max_products, seed, tolerance, max_basis_bytes)
    everything = (
        of_dense(operator) if dense else Evidence(why_not_all="needs all eigenvalues: pass dense=True")
    )
    known.spectrum, known.eps = everything.spectrum, everything.eps
    known.why_not_all = everything.why_not_all
    if known.spectrum is None and known.frame is not None:
        outermost = extreme_eigenvalues(
            operator,
            OUTERMOST,
            tolerance=tolerance,
            max_products=max_products,
            max_basis_bytes=max_basis_bytes,
            seed=seed,
        )
        known.frame = confirmed(known.frame, outermost)
    rows = [
        {"quantity": "condition_number", "unit": "1", "definition": name}
        | vars(evaluate(name, known, learning_rate, damping))
        | {"use": one.use, "needs": one.needs}
        for name, one in DEFINITIONS.items()
    ]
    frame = pandas.DataFrame(rows).assign(products=operator.products - before, **operator.conditions)
    columns = ["quantity", "unit", "definition", "value", "low", "high", "products", "status", "reason"]
    return frame[[*operator.conditions, *columns, "use", "needs"]]
