"""How do gradients correlate in residual nets whose branches have several normalised layers, as real ones do?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number, whole_number
from gradscope.theory.batch_norm_residual import GROWTH


def residual_batch_norm_branches(
    depth: ArrayLike, beta: float = 1.0, branch_layers: int = 2, *, input_variance: float = 1.0
) -> NDArray[np.float64]:
    """R of x <- x + beta F(x), F of k times BN-ReLU-W one after the other, He-scaled W, frozen statistics.

    With v_l = input_variance / beta^2 + q (l - 1), q = 1 - 1/pi, a branch's squared gain is
    chi_l = 1 / (q^(k-1) v_l), since each inner normalisation divides by q what was doubled and halved. Two inputs'
    gradients share a half of it at each ReLU: R_L = prod_l (1 + chi_l / 2^k) / (1 + chi_l).
    k = 1 is `residual_batch_norm`; k = 2 is a pre-activation ResNet. R ~ L^(-(1 - 2^-k) / q^k): exponents 0.733 and
    1.614.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        beta: Factor of the branch, >= 0; 0 gives 1.
        branch_layers: k, normalised ReLU layers of a branch, >= 1.
        input_variance: Centred variance of the stream at the first block, > 0.

    Returns:
        Correlation in (0, 1], shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived, for the blocks of He et al. (2016), arXiv:1603.05027.
    """
    gains, halvings = _gains(depth, beta, branch_layers, input_variance)
    logarithms = np.log1p(gains / halvings) - np.log1p(gains)
    return np.asarray(np.exp(np.cumsum(logarithms))[depths(depth) - 1], dtype=np.float64)


def residual_batch_norm_branches_variance(
    depth: ArrayLike, beta: float = 1.0, branch_layers: int = 2, *, input_variance: float = 1.0
) -> NDArray[np.float64]:
    """Gradient variance prod_l (1 + chi_l) of `residual_batch_norm_branches`, ~ L^(1 / q^k).

    Args:
        depth, beta, branch_layers, input_variance: As there.

    Returns:
        Variance relative to the output's, >= 1, shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived, for the blocks of He et al. (2016), arXiv:1603.05027.
    """
    gains, _ = _gains(depth, beta, branch_layers, input_variance)
    return np.asarray(np.exp(np.cumsum(np.log1p(gains)))[depths(depth) - 1], dtype=np.float64)


def _gains(
    depth: ArrayLike, beta: float, branch_layers: int, input_variance: float
) -> tuple[NDArray[np.float64], float]:
    blocks = np.arange(depths(depth).max())
    square = real_number(beta, "beta", least=0) ** 2
    layers = whole_number(branch_layers, "branch_layers", 1)
    stream = real_number(input_variance, "input_variance", above=0) + square * GROWTH * blocks
    return square / (GROWTH ** (layers - 1) * stream), 2.0**layers
