"""Start a Lanczos run from vectors found before, without becoming blind to new directions."""

import torch
from torch import Tensor

from gradscope.curvature.operators import Operator

RANDOM_SHARE = 0.3
"""Length of the random part beside the given one of length 1.

What a start with so small a random part misses, the second start of `converged_run` finds.
"""


def warm_start(operator: Operator, given: Tensor, seed: int) -> Tensor:
    """One starting vector, [P]: the sum of the given directions, and a random part.

    A Krylov space knows only what its start knows, and the old eigenvectors of an operator that has moved may
    know nothing of a direction whose eigenvalue has overtaken them.

    Args:
        operator: Symmetric, [P, P].
        given: One vector, [P], or several, [k, P]; rows that are not finite (values not reached) are left out.
        seed: Of the random part.

    Raises:
        ValueError: The shape is wrong, or no row is finite and other than zero.
    """
    size = operator.shape[0]
    if given.ndim not in (1, 2) or given.shape[-1] != size:
        raise ValueError(
            f"start= is one vector of shape [{size}] or several of shape [k, {size}], got {list(given.shape)}."
        )
    rows = given.detach().to(operator.device, operator.dtype).reshape(-1, size)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    usable = (torch.isfinite(lengths) & (lengths > 0)).flatten()
    if not usable.any():
        raise ValueError("start= holds no vector that is finite and other than zero. Leave it out instead.")
    total = (rows[usable] / lengths[usable]).sum(dim=0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(size, generator=generator).to(total)
    return total / torch.linalg.vector_norm(total) + RANDOM_SHARE * noise / torch.linalg.vector_norm(noise)
