"""Gradient correlation R, read off a Gram matrix."""

import torch
from torch import Tensor

from gradscope.measures.gram_sums import GramSums, gram_sums


def correlation_R_of_gram(gram: Tensor) -> Tensor:
    """Gradient correlation R: mean product of two examples' gradients over their mean square.

    1 when all gradients are the same; near 0 when they are as unrelated as white noise. A ratio of sums,
    R = mean_{i != j} K_ij / mean_i K_ii, so that long gradients weigh more; uncentred.

    Args:
        gram: [B, B] with B >= 2, of any scale.

    Returns:
        Scalar, dimensionless, in [-1/(B-1), 1]; float64. NaN if every gradient is zero or an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Definition 1.
    """
    return correlation_R_of_sums(gram_sums(gram))


def correlation_R_of_sums(sums: GramSums) -> Tensor:
    """`correlation_R_of_gram` from the sums alone, in their shape."""
    ratio = (sums.total - sums.trace) / (sums.trace * (sums.examples - 1))
    return torch.where(sums.trace > 0, ratio, torch.full_like(ratio, torch.nan))
