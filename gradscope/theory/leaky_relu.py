"""Leaky rectifiers follow the laws of a residual net: their linear part is a skip."""

from __future__ import annotations

from gradscope.theory._arguments import real_number
from gradscope.theory.mean_field import MeanField, residual_correlation


def leaky_relu_correlation(depth: int, negative_slope: float, rho: float = 0.0) -> MeanField:
    """Plain net h <- W phi(h), phi(x) = max(x, 0) + s min(x, 0), variance-preserving W, nothing normalised.

    E[phi(u) phi(v)] is proportional to (1-s)^2 k1(rho) + 2 s rho and E[phi'(u) phi'(v)] to (1-s)^2 k0(rho) + 2 s,
    both divided by 1 + s^2 = (1-s)^2 + 2 s: a residual ReLU net with skip sqrt(2 s) and branch 1 - s. s = 0 is
    ReLU; s = 1 is linear, with R = 1. PReLU is this at its initial slope (0.25 in PyTorch).

    Args:
        depth: Number L of layers, >= 1.
        negative_slope: s, in [0, 1].
        rho: Correlation of the first pre-activations of two inputs, in [-1, 1].

    Returns:
        The recursion at layers 1..L. The gradient's variance is kept: weights have variance
        2 / (1 + s^2) over fan-in (He et al.).

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived from the arc-cosine kernels (Cho & Saul, NIPS 2009); scale: He et al. (2015), arXiv:1502.01852.
    """
    slope = real_number(negative_slope, "negative_slope", least=0)
    if slope > 1:
        raise ValueError(f"negative_slope is in [0, 1], from ReLU to linear, got {slope}.")
    size = (1 + slope**2) ** 0.5
    return residual_correlation(depth, (2 * slope) ** 0.5 / size, (1 - slope) / size, rho)
