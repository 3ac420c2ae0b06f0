"""How long are the paths that carry a residual net's gradient at initialisation?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import real_number, whole_number


def initialisation_path_lengths(gains: ArrayLike) -> NDArray[np.float64]:
    """Expected share of squared gradient norm carried by paths of length k = 0..n at initialisation.

    e_k(chi_1..chi_n) / prod (1 + chi_l), e_k the elementary symmetric polynomials: the law of a sum of n
    independent choices with probabilities chi / (1 + chi). Exact if branch Jacobians are independent
    random matrices, so that paths are orthogonal on average.

    Args:
        gains: Squared gain chi_l >= 0 of each branch relative to its skip, shape [n], n >= 1.

    Returns:
        Shape [n + 1], non-negative, summing to 1.

    Raises:
        ValueError: the gains are not a non-empty list of finite numbers >= 0.

    Source:
        Derived; for equal gains the weights of Littwin & Wolf, arXiv:1611.02525, with beta^2 for beta.
    """
    law = np.ones(1)
    for chance in _crossing_chances(gains):
        law = np.convolve(law, [1 - chance, chance])
    return law


def mean_path_length(gains: ArrayLike) -> float:
    """Mean sum chi / (1 + chi) of `initialisation_path_lengths`, in residual functions crossed.

    Args:
        gains: Squared gain chi_l >= 0 of each branch relative to its skip, shape [n], n >= 1.

    Returns:
        Mean path length in [0, n).

    Raises:
        ValueError: the gains are not a non-empty list of finite numbers >= 0.

    Source:
        Derived.
    """
    return float(_crossing_chances(gains).sum())


def batch_norm_gains(
    blocks: int, branch_variance: float = 1 - 1 / math.pi, input_variance: float = 1.0
) -> NDArray[np.float64]:
    """Squared gains chi_l = 1 / (v_0 + q l), l = 0..n-1, of x <- x + W relu(BN(x)) at initialisation.

    The stream's variance grows by q each block and batch normalisation divides the branch by it, so that deep
    blocks are crossed ever less often. q = 1 is a linear branch, with mean path length H_{n+1} - 1.

    Args:
        blocks: Number n of blocks, >= 1.
        branch_variance: Variance q a branch adds per unit, >= 0: 1 - 1/pi for W relu(BN(x)), 1 for W BN(x).
        input_variance: Variance v_0 of the stream before the first block, > 0.

    Returns:
        Shape [n], positive, falling.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived; related: De & Smith, arXiv:2002.10444.
    """
    n = whole_number(blocks, "blocks", 1)
    growth = real_number(branch_variance, "branch_variance", least=0)
    return 1 / (real_number(input_variance, "input_variance", above=0) + growth * np.arange(n))


def _crossing_chances(gains: ArrayLike) -> NDArray[np.float64]:
    chi = np.asarray(gains, dtype=np.float64)
    if chi.ndim != 1 or chi.size == 0 or not np.isfinite(chi).all() or chi.min() < 0:
        raise ValueError(f"gains are squared, one per branch: a list of finite numbers >= 0, got {gains!r}.")
    return chi / (1 + chi)
