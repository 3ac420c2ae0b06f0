"""Which laws do path lengths follow when branches are scaled, dropped or normalised in a regular way?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gradscope.theory._arguments import real_number, whole_number


def stirling_path_counts(blocks: int) -> list[int]:
    """Unsigned Stirling numbers of the first kind c(n + 1, k + 1), k = 0..n: weights of a linear chain with BN.

    For x <- x + W BN(x) at initialisation the squared gains are 1, 1/2, ..., 1/n, so that lengths weigh
    prod_{j=1..n} (1 + t / j) = sum_k c(n + 1, k + 1) t^k / n!: the law of the number of cycles, less one, of a
    random permutation of n + 1 things. The mean is H_{n+1} - 1, about log n: doubling the depth adds 0.69.

    Args:
        blocks: Number n of blocks, >= 1.

    Returns:
        n + 1 exact Python ints, summing to (n + 1)!; divided by that they are
        `initialisation_path_lengths(batch_norm_gains(n, branch_variance=1))`.

    Raises:
        ValueError: `blocks` is no whole number of at least 1.

    Source:
        Derived.
    """
    row = [1]
    for factor in range(1, whole_number(blocks, "blocks", 1) + 1):
        row = [factor * here + before for here, before in zip([*row, 0], [0, *row], strict=True)]
    return row


def poisson_path_lengths(mean: float, longest: int) -> NDArray[np.float64]:
    """Poisson shares e^-a a^k / k! of lengths k = 0..longest: the limit of many weak branches.

    Coherent paths with branches scaled by a / n, the steps of an ODE solver, have it with mean a whatever n;
    orthogonal ones with branches scaled by a / sqrt(n) have it with mean a^2.

    Args:
        mean: a, in residual functions crossed, >= 0.
        longest: Last length returned, >= 0.

    Returns:
        Shape [longest + 1]; what is missing to a sum of 1 is longer.

    Raises:
        ValueError: An argument is outside its range.

    Source:
        Derived; ODE view: Chang et al. (2017), arXiv:1710.10348.
    """
    rate = real_number(mean, "mean", least=0)
    last = whole_number(longest, "longest", 0)
    if rate == 0:
        return np.eye(1, last + 1)[0]
    logs = [k * math.log(rate) - math.lgamma(k + 1) - rate for k in range(last + 1)]
    return np.exp(np.array(logs))


def scaled_path_lengths(
    blocks: int, gain: float = 1.0, exponent: float = 0.0, *, coherent: bool = True
) -> NDArray[np.float64]:
    """Shares of path lengths when each of n branches weighs b = gain / n^exponent: Binomial(n, b / (1 + b)).

    The mean is n b / (1 + b): proportional to n at exponent 0; bounded by `gain` at exponent 1 (each block
    a step of 1/n); of order sqrt(n) at exponent 1/2, where it is bounded by gain^2 if paths are orthogonal.

    Args:
        blocks: Number n of blocks, >= 1.
        gain: Gain of a branch relative to its skip at n = 1, >= 0.
        exponent: How fast branches shrink as blocks are added: 0, 1/2 and 1 are those in use.
        coherent: Shares of e_k(b), if paths of one length add up; False: of e_k(b^2), their squared norms if they
            are orthogonal.

    Returns:
        Shape [n + 1], >= 0, summing to 1.

    Raises:
        ValueError: An argument is outside its range.

    Source:
        Derived; coherent: Littwin & Wolf (2016), arXiv:1611.02525.
    """
    n = whole_number(blocks, "blocks", 1)
    base = real_number(gain, "gain", least=0) * n ** -real_number(exponent, "exponent")
    odds = base if coherent else base**2
    if odds == 0:
        return np.eye(1, n + 1)[0]
    binomial = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    logs = np.array(binomial) + np.arange(n + 1) * math.log(odds) - n * math.log1p(odds)
    return np.exp(logs)


def linear_survival(blocks: int, last: float = 0.5) -> NDArray[np.float64]:
    """Probabilities p_l = 1 - (l / L)(1 - p_L) of keeping block l = 1..L under stochastic depth.

    About 3 L / 4 blocks are run on average at p_L = 1/2. With them as scales, `weighted_path_counts` gives the
    expected number of paths of each length, prod (1 + p_l t).

    Args:
        blocks: Number L of blocks, >= 1.
        last: Probability p_L of the last one, in [0, 1].

    Returns:
        Shape [L], falling.

    Raises:
        ValueError: An argument is outside its range.

    Source:
        Huang et al. (2016), arXiv:1603.09382, eq. 4.
    """
    count = whole_number(blocks, "blocks", 1)
    kept = real_number(last, "last", least=0)
    if kept > 1:
        raise ValueError(f"last is a probability, in [0, 1], got {kept}.")
    return 1 - np.arange(1, count + 1) / count * (1 - kept)
