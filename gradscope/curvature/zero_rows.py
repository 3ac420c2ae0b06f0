"""The atom at zero: rows of the operator without any entry."""

import torch
from torch import Tensor

from gradscope.curvature.operators import Operator


def count_zero_rows(operator: Operator, products: Tensor, generator: torch.Generator) -> int:
    """How many rows of a symmetric operator are zero: each is one eigenvalue 0.

    A row whose products with sign vectors are all exactly zero may still have entries that cancel, as 1 and -1 do
    for half of all signs. One more product, with a normal vector, tells: there entries cancel with
    probability 0. It is made only when a row is in doubt. Rows that are zero but for rounding (biases in
    front of batch normalisation in train mode) are not counted.

    Args:
        operator: Symmetric, [P, P].
        products: The operator times some vectors, as rows of [k, P].
        generator: Of the normal vector.
    """
    silent = (products == 0).all(dim=0)
    if bool(silent.any()):
        drawn = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
        silent &= operator.matvec(drawn.to(operator.device, operator.dtype)) == 0
    return int(silent.sum())
