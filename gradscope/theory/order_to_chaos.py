"""Is a plain net ordered, critical or chaotic, and how deep do signals and gradients reach?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import real_number
from gradscope.theory._quadrature import Function, activation_functions, mean_of_product, mean_of_square

_CRITICAL = 1e-6
_VANISHED, _GROWN, _STEP = 1e-10, 1e4, 1.15


@dataclass(frozen=True)
class Phase:
    """Where a plain net's signals end, and how fast they and the gradients get there.

    Attributes:
        name: "ordered" (chi_1 < 1: inputs become alike, gradients vanish), "critical" (chi_1 = 1 to 1e-6), or
            "chaotic" (chi_1 > 1: inputs become unlike, gradients explode).
        variance: q*, fixed point of the pre-activations' mean square.
        correlation: c*, stable fixed point of two inputs' correlation; NaN where q* = 0, see `reason`.
        chi_1: w E[phi'(u)^2] at q*: factor of the gradient's squared norm a layer.
        correlation_depth: xi_c = -1 / log chi(c*) in layers, chi(c) = w E[phi'(u) phi'(v)]: differences from c*
            shrink as exp(-l / xi_c). Infinite where critical, 0 where one layer suffices.
        gradient_depth: xi_grad = 1 / |log chi_1| in layers, of the squared gradient norm. Infinite where critical,
            0 where no gradient passes.
        reason: Why something is NaN; empty otherwise.
    """

    name: Literal["ordered", "critical", "chaotic"]
    variance: float
    correlation: float
    chi_1: float
    correlation_depth: float
    gradient_depth: float
    reason: str = ""


def order_to_chaos(
    activation: str | Function,
    derivative: Function | None = None,
    *,
    weight_variance: float,
    bias_variance: float = 0.0,
    variance: float = 1.0,
) -> Phase:
    """The phase of h <- W phi(h) + b, with its fixed points and depth scales.

    Args:
        activation, derivative: As in `activation_correlation`.
        weight_variance: w, fan-in times the variance of a weight, > 0.
        bias_variance: b, >= 0.
        variance: Mean square of the first pre-activations, > 0; where the variance map has several fixed
            points, the one that this flows to is meant.

    Returns:
        The phase.

    Raises:
        ValueError: an argument is outside its range, the activation has a kink, or the derivative is not its own.
        FloatingPointError: the mean square has no fixed point that quadrature reaches: signals explode.

    Source:
        Poole et al. (2016), arXiv:1606.05340, for the fixed points and chi_1; Schoenholz et al. (2017),
        arXiv:1611.01232, for the depth scales.
    """
    phi, slope = activation_functions(activation, derivative)
    weight = real_number(weight_variance, "weight_variance", above=0)
    bias = real_number(bias_variance, "bias_variance", least=0)
    q = _fixed_variance(phi, weight, bias, real_number(variance, "variance", above=0))
    chi_1 = weight * mean_of_square(slope, q)
    if abs(chi_1 - 1) <= _CRITICAL:
        return Phase("critical", q, 1.0, chi_1, math.inf, math.inf)
    gradient_depth = 0.0 if chi_1 == 0 else 1 / abs(math.log(chi_1))
    if q == 0:
        name: Literal["ordered", "chaotic"] = "ordered" if chi_1 < 1 else "chaotic"
        reason = "signals vanish (q* = 0), and the correlation of nothing with nothing is undefined"
        return Phase(name, q, math.nan, chi_1, math.nan, gradient_depth, reason)
    if chi_1 < 1:
        return Phase("ordered", q, 1.0, chi_1, gradient_depth, gradient_depth)
    c = _fixed_correlation(phi, weight, bias, q)
    chi = weight * mean_of_product(slope, q, c)
    reach = 0.0 if chi <= 0 else -1 / math.log(chi)
    return Phase("chaotic", q, c, chi_1, reach, gradient_depth)


def critical_line(
    variance: ArrayLike, activation: str | Function, derivative: Function | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight and bias variances with fixed point q* = `variance` and chi_1 = 1: the critical line by its points.

    w = 1 / E[phi'(u)^2] and b = q - w E[phi(u)^2]. tanh starts at (1, 0), where q* = 0.

    Args:
        variance: q*, >= 0, any shape.
        activation, derivative: As in `activation_correlation`.

    Returns:
        w and b, both of the shape of `variance`. A negative b means that no net with this q* is critical.

    Raises:
        ValueError: an argument is outside its range, or the derivative vanishes wherever u is.
        FloatingPointError: quadrature does not resolve the activation at some q*.

    Source:
        Poole et al. (2016), arXiv:1606.05340, for chi_1 = 1; the parametrisation is derived.
    """
    phi, slope = activation_functions(activation, derivative)
    fixed = np.asarray(variance, dtype=np.float64)
    points = []
    for q in fixed.flat:
        gain = mean_of_square(slope, real_number(q, "variance", least=0))
        if gain == 0:
            raise ValueError(
                f"The activation is flat at pre-activations of variance {q}: nothing is critical."
            )
        points.append((1 / gain, q - mean_of_square(phi, q) / gain))
    weights, biases = np.reshape(np.array(points, dtype=np.float64).T, (2, *fixed.shape))
    return weights, biases


def critical_weight_variance(
    activation: str | Function, derivative: Function | None = None, *, bias_variance: float
) -> float:
    """The weight variance w(b) at which chi_1 = 1: 1 for tanh without biases, 1.76 at b = 0.05.

    The root of `critical_line` with the smallest q*.

    Args:
        activation, derivative: As in `activation_correlation`.
        bias_variance: b, >= 0.

    Returns:
        Fan-in times the variance of a weight, > 0.

    Raises:
        ValueError: an argument is outside its range, or no q* below 10^4 is critical at this b.
        FloatingPointError: quadrature does not resolve the activation before a critical q* is found.

    Source:
        Poole et al. (2016), arXiv:1606.05340, and Schoenholz et al. (2017), arXiv:1611.01232, for the line.
    """
    from scipy.optimize import brentq

    phi, slope = activation_functions(activation, derivative)
    bias = real_number(bias_variance, "bias_variance", least=0)

    def excess(q: float) -> float:
        return q - mean_of_square(phi, q) / mean_of_square(slope, q) - bias

    low = 0.0
    if excess(low) < 0:
        high = _VANISHED
        while excess(high) < 0:
            low, high = high, high * _STEP
            if high > _GROWN:
                raise ValueError(f"No net of this activation is critical at bias_variance {bias:.4g}.")
        low = float(brentq(excess, low, high, xtol=1e-15, rtol=1e-13))
    gain = mean_of_square(slope, low)
    if gain == 0:
        raise ValueError("The activation is flat at 0: no net without biases is critical.")
    return 1 / gain


def _fixed_variance(phi: Function, weight: float, bias: float, start: float) -> float:
    """The fixed point of q -> w E[phi^2] + b that `start` flows to; the map rises, so it lies where it heads."""
    from scipy.optimize import brentq

    def change(q: float) -> float:
        return weight * mean_of_square(phi, q) + bias - q

    upwards = change(start) > 0
    here, there = start, start
    while (change(there) > 0) == upwards:
        here, there = there, there * _STEP if upwards else there / _STEP
        if there < _VANISHED and bias == 0:
            return 0.0
        if there > _GROWN:
            raise FloatingPointError(
                f"The pre-activations' mean square grows beyond {_GROWN:.0e} without a fixed point. "
                "Lower weight_variance."
            )
    return float(brentq(change, min(here, there), max(here, there), xtol=1e-300, rtol=1e-13))


def _fixed_correlation(phi: Function, weight: float, bias: float, q: float) -> float:
    """The fixed point below 1 of a chaotic net's correlation map, which is convex on [0, 1]."""
    from scipy.optimize import brentq

    def change(c: float) -> float:
        return (weight * mean_of_product(phi, q, c) + bias) / q - c

    if change(0.0) <= 1e-12:
        return 0.0
    return float(brentq(change, 0.0, 1 - 1e-7, xtol=1e-13))
