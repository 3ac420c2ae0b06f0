"""By how much does each further layer of a 1-shortcut net add to the Hessian's extreme eigenvalues?

The Hessian at zero is L x L blocks, A + (B + B^T)/2 on average with +-(B - B^T)/2 below and above the diagonal. As L
grows its eigenvalues of order L become those of an integral operator on functions of depth t in [0, 1], and they can
be solved for: eigenfunctions turn at a constant speed, v(t) = exp(S (t - 1/2) / mu) w, S = B - B^T.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths
from gradscope.theory.shortcut_hessian import one_shortcut_hessian


def one_shortcut_largest_eigenvalue(
    sigma_xx: ArrayLike, sigma_yx: ArrayLike, layers: ArrayLike
) -> NDArray[np.float64]:
    """lambda_max = mu L - c + O(1/L) for n = 1 at zero: the straight line that it grows along.

    mu is the largest number at which Abar - mu theta cot(theta), theta = |S| / (2 mu), is singular, with
    Abar = A + (B + B^T)/2 (A and B as in `one_shortcut_hessian`), and c the mean over depth of <v, (B + B^T) v> / 2.
    For Sigma_XX = s I and Sigma_YX = c' I it is the exact L s + (L-1) (s - c') where s >= c'.
    Orthogonal weights of product P have the line of Sigma_XX and P^T Sigma_YX.

    Args:
        sigma_xx: (1/m) sum x x^T, shape [d, d], symmetric.
        sigma_yx: (1/m) sum y x^T, shape [d, d].
        layers: Numbers L of layers, >= 1, any shape.

    Returns:
        Shape of `layers`, in loss per squared parameter.

    Raises:
        ValueError: shapes do not match, sigma_xx is not symmetric, or a number of layers is below 1; or no eigenvalue
            grows with depth (Sigma_XX + G has no positive eigenvalue to speak of).

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    from scipy.optimize import brentq

    counts = depths(layers)
    pair = one_shortcut_hessian(sigma_xx, sigma_yx, 2)
    size = len(pair) // 2
    B = pair[size:, :size] - pair[:size, :size]
    even, turning = (B + B.T) / 2, B - B.T
    mean = pair[:size, :size] + even
    speeds, basis = np.linalg.eigh(-1j * turning)
    mean_there = basis.conj().T @ mean @ basis

    def gap(mu: float) -> tuple[float, NDArray[np.complex128]]:
        """Largest eigenvalue of Abar - mu theta cot(theta), which falls as mu grows, and its vector."""
        values, vectors = np.linalg.eigh(mean_there - np.diag(mu * _times_cotangent(speeds / (2 * mu))))
        return float(values[-1]), vectors[:, -1]

    # The cotangent has its pole at theta = pi, above which the gap is positive and falls to its only root.
    pole = float(np.abs(speeds).max()) / (2 * math.pi)
    most = float(np.linalg.eigvalsh(mean)[-1]) + 4 * pole
    least = max(pole * (1 + 1e-9), 1e-12 * float(np.abs(pair).max()))
    if most <= least or gap(least)[0] <= 0:
        raise ValueError(
            "No eigenvalue grows with depth for these Sigma_XX and Sigma_YX; there is no line to draw."
        )
    while gap(most)[0] > 0:
        most *= 2
    mu = float(brentq(lambda value: gap(value)[0], least, most, xtol=1e-14 * most, rtol=1e-14))
    w = gap(mu)[1] / np.sinc(speeds / (2 * math.pi * mu))
    apart = np.sinc(np.subtract.outer(speeds, speeds) / (2 * math.pi * mu))
    held = basis.conj().T @ even @ basis * apart
    intercept = float((w.conj() @ held @ w).real / (w.conj() @ w).real)
    return np.asarray(mu * counts - intercept, dtype=np.float64)


def _times_cotangent(theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """theta cot(theta), 1 at 0."""
    return np.cos(theta) / np.sinc(theta / math.pi)
