"""Gaussian means of smooth functions, and the functions they are taken of.

By the trapezoidal rule, which converges exponentially for smooth functions times a Gaussian. Gauss-Hermite nodes
spread as points are added: with 61 of them E[tanh'(sqrt(q) z)^2] is wrong by 0.2 % at q = 3.5 and by 10 % at
q = 10, where as many evenly spaced ones have three to six digits and 401 all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]
NAMED = ("tanh", "erf", "gelu", "silu")
_KINKED = ("relu", "leaky_relu", "leakyrelu", "prelu", "crelu", "relu6", "hardtanh", "abs")
# One odd and one even number: a jump at 0 falls on a node of the first, between two of the second.
_POINTS, _FEWER = 401, 300
_AGREEMENT, _FARTHEST = 1e-5, 8.5


def activation_functions(
    activation: str | Function, derivative: Function | None
) -> tuple[Function, Function]:
    """phi and phi' as functions of arrays, or a ValueError that says which law to use instead.

    A function with a kink is refused, by name or because two quadrature rules disagree on it, and so is a
    `derivative` that fails Stein's identity E[z phi(z)] = E[phi'(z)].
    """
    if isinstance(activation, str):
        if activation.lower() in _KINKED:
            raise ValueError(
                f"{activation!r} has a kink, on which quadrature is inaccurate. Use the closed forms: "
                "plain_correlation and residual_correlation for ReLU, leaky_relu_correlation for slopes."
            )
        if activation not in NAMED:
            raise ValueError(
                f"Activations known by name are {', '.join(NAMED)}, got {activation!r}. "
                "Pass the function and its derivative for another."
            )
        if derivative is not None:
            raise ValueError(f"{activation!r} brings its own derivative. Leave derivative out.")
        return _named(activation)
    if derivative is None:
        raise ValueError("An activation given as a function needs its derivative too.")
    _check(activation, derivative)
    return activation, derivative


def mean_of_square(function: Function, variance: float) -> float:
    """E[f(sqrt(q) z)^2] for standard Gaussian z; a FloatingPointError where quadrature does not resolve f."""
    fine, coarse = (_mean_of_square(function, variance, points) for points in (_POINTS, _FEWER))
    if not math.isfinite(fine):
        raise FloatingPointError(
            f"The activation overflows for pre-activations of variance {variance:.4g}. "
            "Lower weight_variance or depth."
        )
    if abs(fine - coarse) > _AGREEMENT * abs(fine):
        raise FloatingPointError(
            f"{_POINTS}-point quadrature does not resolve the activation for pre-activations of variance "
            f"{variance:.4g}: it is too sharp there. Lower the variances; for kinks use the closed forms."
        )
    return fine


def mean_of_product(function: Function, variance: float, correlation: float) -> float:
    """E[f(u) f(v)] for Gaussians u, v of `variance` and `correlation`."""
    return _mean_of_product(function, variance, correlation, _POINTS)


def mean_of_power(function: Function, variance: float, power: int) -> float:
    """E[f(sqrt(q) z)^power]."""
    z, weights = _rule(_POINTS)
    return float(weights @ function(math.sqrt(variance) * z) ** power)


def _mean_of_square(function: Function, variance: float, points: int) -> float:
    z, weights = _rule(points)
    with np.errstate(over="ignore"):
        return float(weights @ np.square(function(math.sqrt(variance) * z)))


def _mean_of_product(function: Function, variance: float, correlation: float, points: int) -> float:
    z, weights = _rule(points)
    rest = math.sqrt(max(1 - correlation**2, 0.0))
    first = function(math.sqrt(variance) * z)
    second = function(math.sqrt(variance) * (correlation * z[:, None] + rest * z))
    return float((weights * first) @ second @ weights)


@cache
def _rule(points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = np.linspace(-_FARTHEST, _FARTHEST, points)
    weights = np.exp(-np.square(z) / 2)
    return z, weights / weights.sum()


def _check(activation: Function, derivative: Function) -> None:
    for function, name in ((activation, "activation"), (derivative, "derivative")):
        fine, coarse = (_mean_of_product(function, 1.0, 0.5, points) for points in (_POINTS, _FEWER))
        if not abs(fine - coarse) <= _AGREEMENT * max(abs(fine), 1e-3):
            raise ValueError(
                f"Two quadrature rules disagree on the {name} ({fine:.6g} and {coarse:.6g}): it has a kink or a "
                "jump. For ReLU and its leaky forms use plain_correlation and leaky_relu_correlation."
            )
    z, weights = _rule(_POINTS)
    stein, slope = float(weights @ (z * activation(z))), float(weights @ derivative(z))
    if abs(stein - slope) > 1e-5 * max(abs(stein), abs(slope), 1e-3):
        raise ValueError(
            f"derivative is not that of activation: E[z phi(z)] = {stein:.6g}, but E[phi'(z)] = {slope:.6g} for "
            "standard Gaussian z, which are equal for a function and its derivative."
        )


def _named(name: str) -> tuple[Function, Function]:
    if name == "tanh":
        return np.tanh, lambda x: 1 - np.square(np.tanh(x))
    from scipy import special

    if name == "erf":
        return special.erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-np.square(x))
    if name == "gelu":
        return (
            lambda x: x * special.ndtr(x),
            lambda x: special.ndtr(x) + x * np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi),
        )
    return (
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    )
