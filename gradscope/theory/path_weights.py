"""How much do paths of each length weigh, when every block multiplies what passes its branch by a gain?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import real_number


def log_elementary_symmetric(values: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithms of the elementary symmetric polynomials e_0 .. e_n of n numbers >= 0.

    e_k is the sum over all sets of k numbers of their product: C(n, k) b^k for n equal numbers b. Logarithms,
    because e_k leaves float64 on both sides within a few hundred blocks; all terms are >= 0, so nothing
    cancels, and 1000 numbers cost a relative error of about 1e-11.

    Args:
        values: Shape [n], n >= 1, finite and >= 0.

    Returns:
        Shape [n + 1]; entry 0 is 0, and -inf where e_k is 0 (fewer than k numbers are positive).

    Raises:
        ValueError: The values are not a non-empty list of finite numbers >= 0.

    Source:
        The recursion E_j = E_{j-1} + x_j t E_{j-1} on generating functions, one block at a time.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all() or numbers.min() < 0:
        raise ValueError(f"gains are one per block: a list of finite numbers >= 0, got {values!r}.")
    logs = np.full(numbers.size + 1, -np.inf)
    logs[0] = 0.0
    # Zeros change nothing, and sorting makes the result independent of the order of the blocks.
    for place, gain in enumerate(np.sort(numbers[numbers > 0]), start=1):
        crossed = logs[:place] + np.log(gain)
        logs[1 : place + 1] = np.logaddexp(logs[1 : place + 1], crossed)
    return logs


def path_weights(gains: ArrayLike) -> NDArray[np.float64]:
    """Weight eps_k of paths that cross k = 0 .. n branches, if paths of one length add up coherently.

    eps_k = e_k(beta_1 .. beta_n) / z, which is C(n, k) beta^k / z for equal gains, with sum eps_k^2 = 1.

    Args:
        gains: Gain beta_l >= 0 of each block's branch relative to its skip, shape [n]; of a block with several
            branches, the sum of their gains.

    Returns:
        Shape [n + 1], >= 0, squares summing to 1. Divide by the sum for shares that sum to 1.

    Raises:
        ValueError: As `log_elementary_symmetric`.

    Source:
        Littwin & Wolf (2016), arXiv:1611.02525, for equal gains; unequal ones: derived.
    """
    logs = log_elementary_symmetric(gains)
    weights: NDArray[np.float64] = np.exp(logs - logs.max())
    return weights / np.linalg.norm(weights)


def incoherent_path_weights(squared_gains: ArrayLike) -> NDArray[np.float64]:
    """Weight sqrt(e_k(beta_1^2 .. beta_n^2)) / z of paths that cross k branches, if paths are orthogonal.

    The squares are `initialisation_path_lengths(squared_gains)`, the law of independent branches.

    Args:
        squared_gains: Squared gain beta_l^2 >= 0 of each block, shape [n]; of a block with several branches,
            the sum of their squared gains.

    Returns:
        Shape [n + 1], >= 0, squares summing to 1.

    Raises:
        ValueError: As `log_elementary_symmetric`.

    Source:
        Derived; the incoherent counterpart of Littwin & Wolf (2016), arXiv:1611.02525.
    """
    logs = log_elementary_symmetric(squared_gains) / 2
    weights: NDArray[np.float64] = np.exp(logs - logs.max())
    return weights / np.linalg.norm(weights)


def peak_path_fraction(gain: float, *, coherent: bool = True) -> float:
    """Where the weights of many blocks of equal gain peak, as a fraction of the number of blocks.

    Args:
        gain: beta >= 0.
        coherent: beta / (1 + beta) if paths add up, beta^2 / (1 + beta^2) if they are orthogonal.

    Returns:
        In [0, 1): 1/2 at gain 1 either way.

    Raises:
        ValueError: The gain is negative or not finite.

    Source:
        Littwin & Wolf (2016), arXiv:1611.02525, Theorem 1; incoherent: derived.
    """
    beta = real_number(gain, "gain", least=0)
    odds = beta if coherent else beta**2
    return odds / (1 + odds)
