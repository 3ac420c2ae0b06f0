"""Gradient diversity and m-coherence: does a batch add its gradients up, or do they cancel?"""

import math

import torch
from torch import Tensor

from gradscope.measures.gram_sums import GramSums, gram_sums


def gradient_diversity(gram: Tensor) -> Tensor:
    """Gradient diversity: sum of the squared norms over the squared norm of the sum, tr K / 1^T K 1.

    1/B when all gradients are the same, 1 when they are orthogonal, larger where they cancel.

    Args:
        gram: [B, B] with B >= 2, of any scale.

    Returns:
        Scalar, dimensionless, in [1/B, inf]; float64. Infinite where the gradients cancel to rounding,
        1^T K 1 <= B eps tr K; NaN if every gradient is zero or an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Yin et al. (2018), Gradient diversity, arXiv:1706.05699, Definition 2.
    """
    return gradient_diversity_of_sums(gram_sums(gram))


def diversity_batch_bound(gram: Tensor) -> Tensor:
    """B times the gradient diversity: up to about so many examples, larger batches learn as well by the example.

    1 when all gradients are the same (a second example teaches nothing), B when they are orthogonal.

    Args:
        gram: [B, B] with B >= 2, of any scale.

    Returns:
        Scalar in examples, in [1, inf]; float64. Infinite and NaN as `gradient_diversity`.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Yin et al. (2018), arXiv:1706.05699, Definition 2 and theorem 2: the bound B_S is n times the diversity.
    """
    return diversity_batch_bound_of_sums(gram_sums(gram))


def m_coherence(gram: Tensor) -> Tensor:
    """m-coherence: squared norm of the sum over the sum of the squared norms; the reciprocal of the diversity.

    How many examples, on average, one example's step helps: B when all gradients are the same, 1 when they are
    orthogonal, 0 when they cancel.

    Args:
        gram: [B, B] with B >= 2, of any scale.

    Returns:
        Scalar in examples, in [0, B] up to rounding; float64. NaN if every gradient is zero or an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Chatterjee and Zielinski (2020), arXiv:2008.01217.
    """
    return m_coherence_of_sums(gram_sums(gram))


def m_coherence_of_R(correlation: float, examples: int) -> float:
    """The m-coherence as a function of R: 1 + (B - 1) R, at least 0 and at most B."""
    return min(max(1 + (examples - 1) * correlation, 0.0), float(examples))


def gradient_diversity_of_R(correlation: float, examples: int) -> float:
    """The gradient diversity as a function of R: 1 / (1 + (B - 1) R), infinite where that is not positive."""
    coherence = m_coherence_of_R(correlation, examples)
    return 1 / coherence if coherence > 0 else math.inf


def gradient_diversity_of_sums(sums: GramSums) -> Tensor:
    """`gradient_diversity` from the sums alone, in their shape."""
    rounding = sums.examples * torch.finfo(torch.float64).eps * sums.trace
    ratio = sums.trace / sums.total
    ratio = torch.where(sums.total <= rounding, torch.full_like(ratio, torch.inf), ratio)
    return torch.where(sums.trace > 0, ratio, torch.full_like(ratio, torch.nan))


def diversity_batch_bound_of_sums(sums: GramSums) -> Tensor:
    """`diversity_batch_bound` from the sums alone, in their shape."""
    return sums.examples * gradient_diversity_of_sums(sums)


def m_coherence_of_sums(sums: GramSums) -> Tensor:
    """`m_coherence` from the sums alone, in their shape."""
    ratio = sums.total / sums.trace
    return torch.where(sums.trace > 0, ratio, torch.full_like(ratio, torch.nan))
