"""What do infinitely wide nets of any smooth activation, plain or residual, do to gradients?

Pre-activations of two inputs are Gaussian with mean square q and correlation c; all means are taken by
quadrature. Rectifiers have kinks, and closed forms instead: `mean_field`, `leaky_relu`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gradscope.theory._arguments import correlation, real_number, whole_number
from gradscope.theory._quadrature import Function, activation_functions, mean_of_product, mean_of_square
from gradscope.theory.mean_field import MeanField


def activation_correlation(
    depth: int,
    activation: str | Function,
    derivative: Function | None = None,
    *,
    rho: float = 0.0,
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
    variance: float = 1.0,
) -> MeanField:
    """Plain net h_{l+1} = W phi(h_l) + b without normalisation.

    q' = w E[phi(u)^2] + b and c' = (w E[phi(u) phi(v)] + b) / q'; a layer multiplies the gradient's squared norm
    by chi = w E[phi'(u)^2] and its correlation by E[phi'(u) phi'(v)] / E[phi'(u)^2].

    Args:
        depth: Number L of layers, >= 1.
        activation: "tanh", "erf", "gelu" (exact, not the tanh form), "silu", or a smooth function of arrays.
        derivative: Its derivative, needed beside a function.
        rho: Correlation c_1 of the first pre-activations of two inputs, in [-1, 1].
        weight_variance: w, fan-in times the variance of a weight, > 0.
        bias_variance: b, >= 0.
        variance: Mean square q_1 of the first pre-activations, > 0.

    Returns:
        The recursion at layers 1..L.

    Raises:
        ValueError: an argument is outside its range, the activation has a kink, or the derivative is not its own.
        FloatingPointError: the pre-activations vanish or grow so far that 401 points no longer resolve the
            activation (tanh: beyond a variance of 60).

    Source:
        Poole et al. (2016), arXiv:1606.05340, the length and correlation maps; Schoenholz et al. (2017),
        arXiv:1611.01232, for the gradients; their correlation between two inputs is derived likewise.
    """
    layers = whole_number(depth, "depth", 1)
    phi, slope = activation_functions(activation, derivative)
    c, q = correlation(rho, "rho"), real_number(variance, "variance", above=0)
    weight = real_number(weight_variance, "weight_variance", above=0)
    bias = real_number(bias_variance, "bias_variance", least=0)
    rows = []
    for layer in range(1, layers + 1):
        gain = mean_of_square(slope, q)
        rows.append((c, mean_of_product(slope, q, c) / gain, math.log(weight * gain)))
        covariance = weight * mean_of_product(phi, q, c) + bias
        q = weight * mean_of_square(phi, q) + bias
        if q < np.finfo(np.float64).tiny:
            raise FloatingPointError(
                f"The pre-activations vanish at layer {layer + 1}. Raise weight_variance."
            )
        c = _clipped(covariance / q)
    return _mean_field(rows)


def residual_activation_correlation(
    depth: int,
    activation: str | Function,
    derivative: Function | None = None,
    *,
    rho: float = 0.0,
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
    output_weight_variance: float = 1.0,
    output_bias_variance: float = 0.0,
    variance: float = 1.0,
) -> MeanField:
    """Residual net x <- x + V phi(W x + b) + a without normalisation.

    With p the mean square of the stream: q = w p + b, p' = p + v E[phi(u)^2] + a, the same for covariances. A block
    multiplies the gradient's squared norm by 1 + v w E[phi'(u)^2], its covariance by 1 + v w E[phi'(u) phi'(v)].
    For activations like tanh both dynamics are sub-exponential in depth.

    Args:
        depth: Number L of blocks, >= 1.
        activation, derivative: As in `activation_correlation`.
        rho: Correlation of the two inputs of the first block, in [-1, 1].
        weight_variance, bias_variance: w > 0 and b >= 0, of W (times its fan-in) and b.
        output_weight_variance, output_bias_variance: v >= 0 and a >= 0, of V (times its fan-in) and a.
        variance: Mean square of the stream at the first block, > 0.

    Returns:
        The recursion at blocks 1..L; `input_correlation` is that of W x + b.

    Raises:
        ValueError, FloatingPointError: As in `activation_correlation`.

    Source:
        Yang & Schoenholz (2017), arXiv:1712.08969, the full residual network; the correlation is derived likewise.
    """
    layers = whole_number(depth, "depth", 1)
    phi, slope = activation_functions(activation, derivative)
    p = real_number(variance, "variance", above=0)
    covariance = correlation(rho, "rho") * p
    inner = real_number(weight_variance, "weight_variance", above=0)
    outer = real_number(output_weight_variance, "output_weight_variance", least=0)
    bias = real_number(bias_variance, "bias_variance", least=0)
    output_bias = real_number(output_bias_variance, "output_bias_variance", least=0)
    rows = []
    for _ in range(layers):
        q = inner * p + bias
        c = _clipped((inner * covariance + bias) / q)
        grown = 1 + outer * inner * mean_of_square(slope, q)
        shared = 1 + outer * inner * mean_of_product(slope, q, c)
        rows.append((c, shared / grown, math.log(grown)))
        p += outer * mean_of_square(phi, q) + output_bias
        covariance += outer * mean_of_product(phi, q, c) + output_bias
    return _mean_field(rows)


def _clipped(value: float) -> float:
    """Rounding may carry a correlation beyond 1."""
    return min(max(value, -1.0), 1.0)


def _mean_field(rows: list[tuple[float, float, float]]) -> MeanField:
    correlations, factors, log_gains = np.array(rows, dtype=np.float64).T
    layers: NDArray[np.int64] = np.arange(1, len(rows) + 1)
    return MeanField(layers, correlations, np.cumprod(factors), np.cumsum(log_gains))
