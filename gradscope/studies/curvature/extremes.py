"""The outermost eigenvalues of an operator, from where the last measurement left off or from all of them."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from gradscope.curvature.eigenpairs import extreme_eigenpairs
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import Operator

if TYPE_CHECKING:
    import pandas as pd


class Budget(NamedTuple):
    """How long a run may go on, and from which seed it starts; as in `extreme_eigenvalues`."""

    tolerance: float = 1e-3
    max_products: int = 300
    seed: int = 0


class Extremes(NamedTuple):
    """The outermost eigenvalues of one operator.

    Attributes:
        frame: As `extreme_eigenvalues` returns it.
        vectors: Their vectors, [rows, P], a row for each of the frame's; NaN where a value was not reached.
        run: The Lanczos run that found them.
        products: What it cost.
    """

    frame: "pd.DataFrame"
    vectors: Tensor
    run: Lanczos
    products: int


def extremes(
    operator: Operator, k: int, budget: Budget, *, ends: str = "both", known: Tensor | None = None
) -> Extremes:
    """One Lanczos run, from a random vector or from the vectors that a former run found.

    Args:
        operator: Symmetric, [P, P].
        k: Values at each end.
        budget: Of the run.
        ends: As in `extreme_eigenvalues`.
        known: Vectors near the eigenvectors, [rows, P]; rows that are not finite are left out.
    """
    last: list[Lanczos] = []

    def keep(run: Lanczos) -> None:
        last[:] = [run]

    before = operator.products
    found = extreme_eigenpairs(
        operator,
        k,
        ends=ends,
        tolerance=budget.tolerance,
        max_products=budget.max_products,
        seed=budget.seed,
        start=known if known is not None and bool(known.isfinite().all(dim=1).any()) else None,
        callback=keep,
    )
    return Extremes(found.frame, found.vectors, last[0], operator.products - before)
