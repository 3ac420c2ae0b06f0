"""How much do gradient norms differ from one initialisation to the next?"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number, whole_number
from gradscope.theory.arc_cosine import k0


def log_norm_variance(depth: ArrayLike, width: int) -> NDArray[np.float64]:
    """Var[log |g|^2] ~ 5 L / N over He-initialised plain ReLU nets of L layers of width N. Published.

    4/N from the weights of N/2 open units, 1/N from how many are open. For unequal widths, add up 5/N_l. Averages of
    |g|^2 over nets are dominated by few once this exceeds about 1; average logarithms instead.

    Args:
        depth: Number L of layers, >= 1, any shape.
        width: N >= 1.

    Returns:
        In squared natural logarithms of |g|^2, shape of `depth`. Leading order in 1/N: at N = 50 it is 8 % low.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Hanin & Nica (2018), arXiv:1812.05994, where 5 sum 1/N_l is called beta.
    """
    return np.asarray(5 * depths(depth) / whole_number(width, "width", 1), dtype=np.float64)


def log_norm_variance_exact(depth: ArrayLike, width: int) -> NDArray[np.float64]:
    """The same at finite width: L Var[log chi^2_K], K ~ Binomial(N, 1/2) open units. Derived.

    E[psi'(K/2)] + Var[psi(K/2)], psi the digamma function. Nets whose layer has no open unit, 2^-N of all, have no
    logarithm and are left out.

    Args:
        depth: Number L of layers, >= 1, any shape.
        width: N >= 2.

    Returns:
        In squared natural logarithms of |g|^2, shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived, with open units independent of each other as in Hanin & Nica (2018), arXiv:1812.05994.
    """
    from scipy.special import digamma, gammaln, polygamma

    layers, n = depths(depth), whole_number(width, "width", 2)
    K = np.arange(1, n + 1)
    chance = np.exp(gammaln(n + 1) - gammaln(K + 1) - gammaln(n - K + 1) - n * math.log(2))
    chance /= chance.sum()
    mean = chance @ digamma(K / 2)
    each = chance @ polygamma(1, K / 2) + chance @ (digamma(K / 2) - mean) ** 2
    return np.asarray(layers * float(each), dtype=np.float64)


def norm_moment_ratio(depth: ArrayLike, width: int) -> NDArray[np.float64]:
    """E[|g|^4] / E[|g|^2]^2 = (1 + 5/N)^L over He-initialised plain ReLU nets, exact at any width. Derived.

    Args:
        depth: Number L of layers, >= 1, any shape.
        width: N >= 1.

    Returns:
        Shape of `depth`, >= 1: 1 where all nets agree, e^(5 L / N) for wide nets.

    Raises:
        ValueError: an argument is outside its range.
        FloatingPointError: the ratio exceeds float64.

    Source:
        Derived; Hanin (2018), arXiv:1801.03744, bounds it by exponentials of sum 1/N_l.
    """
    logarithm = depths(depth) * math.log1p(5 / whole_number(width, "width", 1))
    if logarithm.max() > 700:
        raise FloatingPointError("(1 + 5/N)^L exceeds float64. Take fewer layers or more units.")
    return np.asarray(np.exp(logarithm), dtype=np.float64)


def residual_log_norm_variance(
    depth: ArrayLike, width: int, branch_gain: float = 1.0, *, branch_layers: Literal[1, 2] = 1
) -> NDArray[np.float64]:
    """Var[log |g|^2] over residual ReLU nets of L blocks of width N, nothing normalised. Derived, leading order.

    For x <- x + V relu(W x) it is L (4 c + 7 c^2) / (N (1 + c)^2): 4 c from the product of skip and branch, 7 c^2 from
    the branch. For x <- x + W relu(x) the units that are open hardly change from block to block, which adds
    covariances: with r_k = k0((1 + c)^(-k/2)), the chance that a unit open at one block is open k blocks away,
    N (1 + c)^2 Var = sum_l (8 c e_l + 4 c^2) + c^2 sum_lm (2 r_|l-m| - 1), where
    e_l = (1 + c)^-n / 2 + sum_{k=1..n} c (1 + c)^-k r_k, n = L - l, is the share of the gradient on open units.
    About 3 L / N at c = 1; bounded in depth for c = a / L.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        width: N >= 1.
        branch_gain: c, mean squared gain of a branch relative to its skip, >= 0: beta^2 for He-scaled branches.
        branch_layers: 1 for W relu(x), 2 for V relu(W x).

    Returns:
        In squared natural logarithms of |g|^2, shape of `depth`. 5 % low at L / N = 1/8, 12 % at 3/8.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived in the manner of Hanin & Nica (2018), arXiv:1812.05994.
    """
    layers, n = depths(depth), whole_number(width, "width", 1)
    c = real_number(branch_gain, "branch_gain", least=0)
    if branch_layers not in (1, 2):
        raise ValueError(f"branch_layers is 1, for W relu(x), or 2, for V relu(W x), got {branch_layers!r}.")
    if branch_layers == 2:
        return np.asarray(layers * (4 * c + 7 * c**2) / ((1 + c) ** 2 * n), dtype=np.float64)
    longest = int(layers.max())
    apart = np.arange(longest)
    shrinking = (1 + c) ** -apart.astype(np.float64)
    open_again = k0(np.sqrt(shrinking))
    shares = shrinking / 2 + np.cumsum(np.where(apart > 0, c * shrinking * open_again, 0))
    both = 2 * open_again - 1
    # Sum over all pairs of L blocks, from the sums over pairs at each distance.
    pairs = 2 * np.cumsum(np.cumsum(both)) - np.arange(1, longest + 1)
    totals = (8 * c * np.cumsum(shares) + c**2 * (4 * np.arange(1, longest + 1) + pairs)) / (n * (1 + c) ** 2)
    return np.asarray(totals[layers - 1], dtype=np.float64)
