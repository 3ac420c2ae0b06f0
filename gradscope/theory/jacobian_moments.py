"""How are the squared singular values of a wide net's input-output Jacobian spread at initialisation?

Free probability: squared singular values of independent layers multiply freely, so that their means multiply and
their relative variances (variance over squared mean) add up. With mu_k = E[phi'(u)^(2k)].
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number, whole_number
from gradscope.theory._quadrature import Function, activation_functions, mean_of_power, mean_of_square

Weights = Literal["gaussian", "orthogonal"]
_FIRST_MOMENT = {"gaussian": -1.0, "orthogonal": 0.0}


def jacobian_mean_square(
    depth: ArrayLike, weight_variance: float = 2.0, mu_1: float = 0.5
) -> NDArray[np.float64]:
    """m_1 = (w mu_1)^L: mean squared singular value of a plain net's Jacobian. 1 for He-scaled ReLU.

    Args:
        depth: Number L of layers, >= 1, any shape.
        weight_variance: w, fan-in times the variance of a weight, > 0; of orthogonal W, W^T W = w I.
        mu_1: E[phi'(u)^2], > 0: 1/2 for ReLU.

    Returns:
        Shape of `depth`, > 0.

    Raises:
        ValueError: an argument is outside its range.
        FloatingPointError: the value leaves the range of float64.

    Source:
        Pennington et al. (2017), arXiv:1711.04735.
    """
    gain = real_number(weight_variance, "weight_variance", above=0) * real_number(mu_1, "mu_1", above=0)
    logarithm = depths(depth) * math.log(gain)
    if np.abs(logarithm).max() > 700:
        raise FloatingPointError(f"{gain:.4g}^L leaves the range of float64. Take fewer layers.")
    return np.asarray(np.exp(logarithm), dtype=np.float64)


def jacobian_relative_variance(
    depth: ArrayLike, mu_1: float = 0.5, mu_2: float = 0.5, *, weights: Weights = "gaussian"
) -> NDArray[np.float64]:
    """Variance of the squared singular values over their squared mean: L (mu_2 / mu_1^2 - 1 - s_1).

    s_1 = -1 for Gaussian weights, 0 for orthogonal ones. ReLU (mu_1 = mu_2 = 1/2) gives 2 L and L: it grows with
    depth even where the mean is kept, so that ReLU nets are never isometric. 0 for orthogonal linear nets.

    Args:
        depth: Number L of layers, >= 1, any shape.
        mu_1, mu_2: E[phi'(u)^2] and E[phi'(u)^4], > 0, from `derivative_moments` for smooth activations.
        weights: "gaussian" or "orthogonal".

    Returns:
        Shape of `depth`, >= 0, dimensionless.

    Raises:
        ValueError: an argument is outside its range, or mu_2 < mu_1^2, which no random number has.

    Source:
        Pennington et al. (2017), arXiv:1711.04735, and (2018), arXiv:1802.09979, at criticality
        (m_1 = 1); relative to m_1^2 it holds at any scale.
    """
    return np.asarray(depths(depth) * _layer_variance(mu_1, mu_2, weights), dtype=np.float64)


def residual_jacobian_relative_variance(
    depth: ArrayLike, branch_gain: float = 1.0, branch_variance: float = 2.0
) -> NDArray[np.float64]:
    """The same for L blocks x <- x + F(x): L (2 c + c^2 omega) / (1 + c)^2.

    c is the mean squared singular value of a branch's Jacobian (relative to the skip), omega their relative
    variance: 2 for F = beta relu(W x), Gaussian W of variance 2/N, where c = beta^2; 3 for beta V relu(W x), two
    Gaussian matrices. Exact if branches are independent and orthogonally invariant, thus if every block draws
    the matrix in front of its activation. In a branch W relu(x) the same units stay open from block to block, and
    the variance is higher (15 % at beta = 1, L = 4).
    With c = a / L the variance tends to 2 a at any depth.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        branch_gain: c >= 0.
        branch_variance: omega >= 0; `jacobian_relative_variance(1, ...)` of the branch.

    Returns:
        Shape of `depth`, >= 0, dimensionless. The mean squared singular value is (1 + c)^L.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived in the setting of Tarnowski et al. (2018), arXiv:1809.08848.
    """
    c = real_number(branch_gain, "branch_gain", least=0)
    omega = real_number(branch_variance, "branch_variance", least=0)
    return np.asarray(depths(depth) * (2 * c + c**2 * omega) / (1 + c) ** 2, dtype=np.float64)


def derivative_moments(
    activation: str | Function, derivative: Function | None = None, *, variance: float = 1.0
) -> tuple[float, float]:
    """mu_1 = E[phi'(u)^2] and mu_2 = E[phi'(u)^4] for pre-activations u of mean square `variance`. ReLU: both 1/2.

    Args:
        activation, derivative: As in `activation_correlation`.
        variance: Mean square of the pre-activations, >= 0: q* of `order_to_chaos` for a deep net.

    Returns:
        mu_1, mu_2.

    Raises:
        ValueError: an argument is outside its range, or the activation has a kink.
        FloatingPointError: quadrature does not resolve the activation at this variance.

    Source:
        Pennington et al. (2017), arXiv:1711.04735.
    """
    _, slope = activation_functions(activation, derivative)
    q = real_number(variance, "variance", least=0)
    return mean_of_square(slope, q), mean_of_power(slope, q, 4)


def looks_linear_singular_values(width: int, depth: int) -> NDArray[np.float64]:
    """All 1: the Jacobian of a looks-linear net of orthogonal W is a product of orthogonal matrices.

    Args:
        width: Width N, >= 1.
        depth: Number L of layers, >= 1, which changes nothing.

    Returns:
        Ones, shape [N].

    Raises:
        ValueError: width or depth is no whole number of at least 1.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, looks-linear initialisation.
    """
    whole_number(depth, "depth", 1)
    return np.ones(whole_number(width, "width", 1))


def _layer_variance(mu_1: float, mu_2: float, weights: Weights) -> float:
    first, second = real_number(mu_1, "mu_1", above=0), real_number(mu_2, "mu_2", above=0)
    if second < first**2 * (1 - 1e-12):
        raise ValueError(f"mu_2 is at least mu_1^2, as for every random number, got {second} and {first}.")
    if weights not in _FIRST_MOMENT:
        raise ValueError(f'weights are "gaussian" or "orthogonal", got {weights!r}.')
    return max(second / first**2 - 1, 0.0) - _FIRST_MOMENT[weights]
