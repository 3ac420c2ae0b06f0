"""How fast does the product of Gaussian matrices, a plain linear net at Xavier initialisation, become ill-conditioned?

Square matrices of width d with independent N(0, w/d) entries; Xavier and LeCun initialisation have w = 1, He w = 2.
What is exact is said to be; the rest holds as the number L of layers grows at fixed width.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number, whole_number


def gaussian_lyapunov_exponents(width: int, weight_variance: float = 1.0) -> NDArray[np.float64]:
    """mu_i = (log(2 w / d) + psi((d - i + 1) / 2)) / 2: growth per layer of the i-th log singular value of the product.

    Exact at every L: the mean of log |W_L..W_1 u| for a fixed unit vector u is L mu_1, that of log |det| is L sum mu_i.
    As L grows: log sigma_i / L tends to mu_i, with relative error O(1/L).

    Args:
        width: d, >= 1.
        weight_variance: w, fan-in times the variance of a weight, > 0.

    Returns:
        Descending, shape [d], in natural logarithms a layer. For w = 1 all are negative.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Newman (1986), The distribution of Lyapunov exponents, Commun. Math. Phys. 103, 121-126.
    """
    from scipy.special import digamma

    d, w = whole_number(width, "width", 1), real_number(weight_variance, "weight_variance", above=0)
    return np.asarray((math.log(2 * w / d) + digamma((d - np.arange(d)) / 2)) / 2, dtype=np.float64)


def gaussian_log_singular_value_deviations(width: int, layers: ArrayLike) -> NDArray[np.float64]:
    """sqrt(L psi'((d - i + 1) / 2)) / 2: standard deviation from net to net of the i-th log singular value.

    Exact for i = 1 as that of log |W_L..W_1 u| at a fixed u, and, added up as squares, for log |det|. For each singular
    value it holds as L grows, when their logarithms become independent and normal.

    Args:
        width: d, >= 1.
        layers: Number L of layers, >= 1, any shape.

    Returns:
        Shape of `layers` with an axis of length d behind, in natural logarithms.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Akemann, Burda & Kieburg (2014), Universal distribution of Lyapunov exponents for products of Ginibre matrices,
        arXiv:1406.0803, for complex matrices; for real ones derived here, from the chi-squared factors of log |det|.
    """
    from scipy.special import polygamma

    d, counts = whole_number(width, "width", 1), depths(layers)
    each = polygamma(1, (d - np.arange(d)) / 2)
    return np.asarray(np.sqrt(counts[..., None] * each) / 2, dtype=np.float64)


def gaussian_gauss_newton_mean_trace(
    trace_sigma_xx: float, width: int, layers: ArrayLike
) -> NDArray[np.float64]:
    """L d tr(S): mean over Xavier nets of the Gauss-Newton trace at half squared error, w = 1. Exact.

    The mean of the whole matrix whose eigenvalues are the spectrum is L I (x) S, what orthogonal weights have in every
    draw. So all that tells Xavier from orthogonal is how far single draws are from their mean.

    Args:
        trace_sigma_xx: tr(S), >= 0.
        width: d, >= 1.
        layers: Number L of layers, >= 1, any shape.

    Returns:
        Shape of `layers`, >= 0, in loss per squared parameter.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here, from Zhao, Singh & Lucchi (2024), arXiv:2411.02139.
    """
    trace = real_number(trace_sigma_xx, "trace_sigma_xx", least=0)
    return np.asarray(depths(layers) * whole_number(width, "width", 1) * trace, dtype=np.float64)


def gaussian_condition_growth(width: int, percentile: float = 0.0) -> float:
    """Decades a layer by which the Gauss-Newton condition number at Gaussian initialisation grows. Asymptotic.

    Its d^2 eigenvalues grow as exp(2 L max(mu_i, mu_j)), the i of the layers above and the j of those below, whatever
    the data's covariance. Largest over a percentile (numpy's linear rule, where the larger neighbour decides) grows by
    2 (mu_1 - mu_k) / ln 10; for percentile 0, k = d, and twice the growth of the product's own condition number.
    Measured: for percentile 0, means over 60 nets grow between 4 and 8 layers within 15 % of it at widths 2 to 10; for
    percentile 10, up to 30 % faster than this between 8 and 20 layers, for neighbouring exponents are slow to part.
    Nothing is derived here on ratios of the indefinite Hessian.

    Args:
        width: d, >= 2.
        percentile: Of the d^2 eigenvalues, in [0, 100).

    Returns:
        >= 0, in powers of ten a layer, the same for every weight variance.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here, from the exponents of Newman (1986) and the spectrum of Zhao, Singh & Lucchi (2024),
        arXiv:2411.02139.
    """
    d, share = whole_number(width, "width", 2), real_number(percentile, "percentile", least=0)
    if share >= 100:
        raise ValueError(f"percentile must be in [0, 100), got {share}.")
    mu = gaussian_lyapunov_exponents(d)
    growths = np.sort(np.maximum.outer(mu, mu), axis=None)
    return float(2 * (mu[0] - growths[math.ceil(share / 100 * (d * d - 1))]) / math.log(10))
