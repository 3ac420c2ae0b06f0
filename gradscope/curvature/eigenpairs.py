"""The largest and smallest eigenvalues of an operator with their eigenvectors."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas
import torch
from torch import Tensor

from gradscope.curvature.eigenvalues import found_frame
from gradscope.curvature.extremes import converged_run
from gradscope.curvature.lanczos import Lanczos
from gradscope.curvature.operators import Operator


@dataclass(frozen=True)
class Eigenpairs:
    """Extreme eigenvalues and their eigenvectors.

    Attributes:
        frame: The eigenvalues, as `extreme_eigenvalues` gives them.
        vectors: Unit vectors, [rows, P], one for each row of the frame, in the operator's dtype and on its
            device; NaN where a value was not reached. |A u - value u| is at most the row's residual. The sign
            is arbitrary, and so is the basis of eigenvalues closer together than their residuals.
    """

    frame: pandas.DataFrame
    vectors: Tensor


def extreme_eigenpairs(
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
) -> Eigenpairs:
    """The k algebraically largest and smallest eigenvalues with their eigenvectors, by Lanczos.

    Arguments, values and errors are those of `extreme_eigenvalues`. The vectors take memory for one row of
    length P each, beside the basis. To follow a network along its training, hand the vectors of one step to
    the next: `start=pairs.vectors` (of use where k > 1 only).
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
    frame = found_frame(found, k, ends, tolerance)
    places = [_place(found.run, rank) for rank in frame["rank"]]
    reached = [row for row, place in enumerate(places) if 0 <= place < found.run.size]
    vectors = torch.full(
        (len(frame), operator.shape[0]), torch.nan, dtype=operator.dtype, device=operator.device
    )
    vectors[reached] = found.vectors([places[row] for row in reached])
    return Eigenpairs(frame, vectors)


def _place(run: Lanczos, rank: int) -> int:
    """Where the value of this rank stands among the ascending Ritz values."""
    return run.size - rank if rank > 0 else -rank - 1
