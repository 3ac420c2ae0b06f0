"""How well conditioned is a plain deep linear net f(x) = W_L .. W_1 x, and what does orthogonality buy?

Half squared error, no biases. With A_l = W_{l-1}..W_1 below layer l and B_l = W_L..W_{l+1} above it, the Gauss-Newton
matrix has the eigenvalues of sum_l B_l B_l^T (x) S^{1/2} A_l^T A_l S^{1/2}, S = Sigma_XX, and zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import matrix, real_number, square_matrix, whole_number
from gradscope.theory.shortcut_hessian import one_shortcut_hessian


def deep_linear_gauss_newton_spectrum(
    weights: Sequence[ArrayLike], sigma_xx: ArrayLike
) -> NDArray[np.float64]:
    """The d_out d_in eigenvalues of a deep linear net's Gauss-Newton matrix that need not be zero.

    Its other eigenvalues, P - d_out d_in of P weights, are exact zeros. At a point that fits the targets this is the
    spectrum of the Hessian, too.

    Args:
        weights: W_1, .., W_L, input side first, each [n_out, n_in]; any widths.
        sigma_xx: (1/m) sum x x^T, shape [d_in, d_in], symmetric.

    Returns:
        Ascending, shape [d_out d_in], >= 0 up to rounding, in loss per squared parameter.

    Raises:
        ValueError: shapes do not fit, or an entry is not finite.

    Source:
        Zhao, Singh & Lucchi (2024), Theoretical characterisation of the Gauss-Newton conditioning, arXiv:2411.02139.
    """
    layers = _chain(weights)
    S = _covariance(sigma_xx, layers[0].shape[1])
    values, vectors = np.linalg.eigh(S)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    total = sum(np.kron(B @ B.T, (A @ root).T @ (A @ root)) for A, B in _around(layers))
    return np.linalg.eigvalsh(total)


def deep_linear_gauss_newton_bound(weights: Sequence[ArrayLike], sigma_xx: ArrayLike) -> float:
    """kappa(S) sum_l |B_l|^2 |A_l|^2 / sum_l s(B_l)^2 s(A_l)^2, at least the Gauss-Newton condition number.

    The largest over the smallest of `deep_linear_gauss_newton_spectrum`. |.| is the largest, s(.) the smallest singular
    value, 0 where B_l^T or A_l loses dimensions. Equal to it for orthogonal weights; for Gaussian ones larger by
    factors of hundreds, and more with depth.

    Args:
        weights: W_1, .., W_L, input side first, each [n_out, n_in].
        sigma_xx: (1/m) sum x x^T, shape [d_in, d_in], symmetric.

    Returns:
        In [1, inf]; infinite where S or the net is singular to rounding, or some layer narrower than those around it
        (one direction of the outputs then meets one of the inputs in no layer).

    Raises:
        ValueError: shapes do not fit, or an entry is not finite.

    Source:
        Zhao, Singh & Lucchi (2024), arXiv:2411.02139.
    """
    layers = _chain(weights)
    values = np.linalg.eigvalsh(_covariance(sigma_xx, layers[0].shape[1]))
    above = below = 0.0
    for A, B in _around(layers):
        (a_large, a_small), (b_large, b_small) = _extremes(A), _extremes(B.T)
        above += (a_large * b_large) ** 2
        below += (a_small * b_small) ** 2
    if values[0] <= len(values) * np.finfo(np.float64).eps * values[-1] or below == 0:
        return math.inf
    return float(values[-1] / values[0] * above / below)


def orthogonal_gauss_newton_spectrum(
    sigma_xx: ArrayLike, layers: int, *, gain: float = 1.0
) -> NDArray[np.float64]:
    """L g^{2 (L-1)} sigma_i(S), d times each, where all weights are g times an orthogonal d x d matrix. Exact.

    So the Gauss-Newton condition number is that of the data, at every depth: a product of isometries is an isometry.

    Args:
        sigma_xx: (1/m) sum x x^T, shape [d, d], symmetric.
        layers: Number L of layers, >= 1.
        gain: g, > 0.

    Returns:
        Ascending, shape [d^2], >= 0 up to rounding; the other (L-1) d^2 eigenvalues are zero.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here, from Zhao, Singh & Lucchi (2024), arXiv:2411.02139.
    """
    S = square_matrix(sigma_xx, "sigma_xx")
    count, g = whole_number(layers, "layers", 1), real_number(gain, "gain", above=0)
    values = np.linalg.eigvalsh(_covariance(S, len(S)))
    return np.repeat(count * g ** (2 * (count - 1)) * values, len(S))


def orthogonal_hessian(
    sigma_xx: ArrayLike, sigma_yx: ArrayLike, product: ArrayLike, layers: int
) -> NDArray[np.float64]:
    """A matrix with all eigenvalues of the Hessian where every weight is g times an orthogonal matrix. Exact.

    Layer by layer, the weights can be rotated so that each becomes g I. What is left of them is their product P: the
    spectrum is that of the 1-shortcut net at zero with targets P^T y. For g = 1 that is
    `one_shortcut_hessian(S, P^T Sigma_YX, L)`: an orthogonal start is as ill-conditioned as the identity, and grows
    with depth as it does. In general the weights' rotation leaves the Hessian's blocks as they are in norm.

    Args:
        sigma_xx: (1/m) sum x x^T, shape [d, d], symmetric.
        sigma_yx: (1/m) sum y x^T, shape [d, d].
        product: W_L..W_1, shape [d, d]: g^L times an orthogonal matrix.
        layers: Number L of layers, >= 1.

    Returns:
        Symmetric, shape [L d^2, L d^2], orthogonally similar to the Hessian.

    Raises:
        ValueError: shapes do not match, or `product` is no multiple of an orthogonal matrix.

    Source:
        Derived here, for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    P, count = square_matrix(product, "product"), whole_number(layers, "layers", 1)
    yx = matrix(sigma_yx, "sigma_yx", P.shape)
    scale = float(np.linalg.norm(P, 2))
    if scale == 0 or np.abs(P.T @ P / scale**2 - np.eye(len(P))).max() > 1e-5:
        raise ValueError(
            "product must be a multiple of an orthogonal matrix, as that of orthogonal square weights is; its "
            f"singular values are {np.linalg.svd(P, compute_uv=False).round(4).tolist()}."
        )
    rotated = one_shortcut_hessian(sigma_xx, P.T @ yx / scale**2, count)
    return float(scale ** (2 - 2 / count)) * rotated


def _chain(weights: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    layers = [matrix(weight, "a weight") for weight in weights]
    fits = all(after.shape[1] == before.shape[0] for before, after in pairwise(layers))
    if not layers or not fits:
        raise ValueError(
            "weights are W_1, .., W_L, input side first, each [n_out, n_in] fed by the one before, got shapes "
            f"{', '.join(str(list(layer.shape)) for layer in layers) or 'of no layer'}."
        )
    return layers


def _covariance(sigma_xx: ArrayLike, width: int) -> NDArray[np.float64]:
    S = matrix(sigma_xx, "sigma_xx", (width, width))
    if np.abs(S - S.T).max() > 1e-10 * np.abs(S).max():
        raise ValueError("sigma_xx must be symmetric: it is (1/m) sum x x^T. Is it sigma_yx by mistake?")
    return S


def _around(layers: list[NDArray[np.float64]]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each layer the product below it and the product above it."""
    below, above = [np.eye(layers[0].shape[1])], [np.eye(layers[-1].shape[0])]
    for layer in layers[:-1]:
        below.append(layer @ below[-1])
    for layer in reversed(layers[1:]):
        above.append(above[-1] @ layer)
    return list(zip(below, reversed(above), strict=True))


def _extremes(product: NDArray[np.float64]) -> tuple[float, float]:
    """Largest and smallest amplification; 0 for the smallest where dimensions are lost, or rounding hides it."""
    sigma = np.linalg.svd(product, compute_uv=False)
    lost = product.shape[0] < product.shape[1] or sigma[-1] <= len(sigma) * 2.3e-16 * sigma[0]
    return float(sigma[0]), 0.0 if lost else float(sigma[-1])
