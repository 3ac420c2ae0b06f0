"""The two sums of a Gram matrix that every ratio of sums is made of."""

from typing import NamedTuple

import torch
from torch import Tensor


class GramSums(NamedTuple):
    """Sums of one Gram matrix, or of several with one entry for each.

    Attributes:
        trace: Sum of the squared norms, sum_i K_ii, in units of `scale`.
        total: Squared norm of the summed gradient, sum_ij K_ij, in units of `scale`.
        examples: Number of examples they are sums over.
        scale: What both are to be multiplied with for the sums themselves; divided out so that no sum overflows.
    """

    trace: Tensor
    total: Tensor
    examples: int
    scale: Tensor


def as_gram(name: str, gram: Tensor, least: int = 2) -> Tensor:
    """A Gram matrix in float64, once it is seen to be one.

    Args:
        name: Who asks, for the message.
        gram: Products of every two examples' gradients, [B, B].
        least: The smallest B that makes sense.

    Raises:
        ValueError: Not a square matrix of `least` examples or more, or not symmetric to a millionth of its largest
            entry.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) < least:
        raise ValueError(
            f"{name} reads a Gram matrix of shape [B, B] with B >= {least}, got {list(gram.shape)}. Of gradients "
            "[B, P] it is gradients @ gradients.T."
        )
    gram = gram.detach().double()
    if bool(torch.isfinite(gram).all()):
        largest = gram.abs().amax()
        if bool((gram - gram.T).abs().amax() > 1e-6 * largest):
            raise ValueError(
                f"{name} reads a Gram matrix, which is symmetric, and this one is not. Multiply gradients by their own "
                "transpose."
            )
    return gram


def gram_sums(gram: Tensor) -> GramSums:
    """Trace and total of a Gram matrix [B, B], B >= 2; scalars. All NaN where an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.
    """
    gram = as_gram("gram_sums", gram)
    scale = _scale(gram)
    gram = gram / scale
    return GramSums(gram.diagonal().sum(), gram.sum(), len(gram), scale)


def leave_one_out_sums(gram: Tensor) -> GramSums:
    """Sums with each example left out in turn, [B] each, in O(B^2) for all of them.

    Without example i, the trace lacks K_ii and the total lacks row i, column i, less K_ii counted twice.

    Args:
        gram: [B, B] with B >= 3.

    Raises:
        ValueError: Not a Gram matrix of three examples or more.
    """
    gram = as_gram("leave_one_out_sums", gram, least=3)
    scale = _scale(gram)
    gram = gram / scale
    diagonal = gram.diagonal()
    total = gram.sum() - 2 * gram.sum(dim=1) + diagonal
    return GramSums(diagonal.sum() - diagonal, total, len(gram) - 1, scale)


def _scale(gram: Tensor) -> Tensor:
    """The largest entry, in size; 1 for a matrix of zeros, NaN where one is not finite."""
    largest = gram.abs().amax()
    if not bool(torch.isfinite(largest)):
        return torch.full_like(largest, torch.nan)
    return torch.where(largest > 0, largest, torch.ones_like(largest))
