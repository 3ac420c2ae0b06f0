"""What breaks the theorem on 2-shortcut nets, and which operators cannot see it at all?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import matrix, square_matrix, whole_number
from gradscope.theory.shortcut_hessian import one_shortcut_hessian


def biased_two_shortcut_spectrum(
    G: ArrayLike,
    mean_gradient: ArrayLike,
    blocks: int,
    inner_width: int,
    loss_curvature: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """All eigenvalues for n = 2 at zero with biases: +-sigma([G, e]), L kappa_i, and exact zeros.

    The branch is W2 (W1 x + b1) + b2. The bias b1 extends G by e = E g; each sum of the b2 has the curvature of the
    loss itself, L times over. So lambda_max >= L at half squared error, which grows with depth, and the Hessian is
    singular; nor is the point stationary unless e = 0, for the gradient of every b2 is e.
    Multiplicities: +-sigma_i([G, e]) h L times, L kappa_i once (kappa_i of the loss: 1, d times, at half squared
    error), zeros h L + (L - 1) d times. Without b2, by leaving it out of the parameters, no L kappa_i is there.

    Args:
        G: `branch_correlation_matrix`, shape [d, d].
        mean_gradient: e, mean over examples of the loss's gradient in f at f = x (x - y at half squared error),
            shape [d].
        blocks: Number L of blocks, >= 1.
        inner_width: h, >= 1.
        loss_curvature: E of the loss's Hessian in f, shape [d, d], symmetric; None for the identity, half squared
            error.

    Returns:
        Ascending, shape [L (2 d h + h + d)], in loss per squared parameter.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here; Li et al. (2016), arXiv:1611.01186, have no biases.
    """
    correlation = square_matrix(G, "G")
    e = _column(mean_gradient, len(correlation))
    count, h = whole_number(blocks, "blocks", 1), whole_number(inner_width, "inner_width", 1)
    sigma = np.linalg.svd(np.hstack([correlation, e]), compute_uv=False)
    pairs = np.repeat(np.concatenate([-sigma, sigma]), h * count)
    sums = count * _loss_curvatures(loss_curvature, len(e))
    return np.sort(np.concatenate([pairs, sums, np.zeros(h * count + (count - 1) * len(e))]))


def biased_higher_shortcut_spectrum(
    mean_gradient: ArrayLike,
    blocks: int,
    layers_per_block: int,
    inner_width: int,
    loss_curvature: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """All eigenvalues for n >= 3 at zero with biases: +-|e|, h L times, L kappa_i, and exact zeros.

    Without biases this start is flat; with them it is not: the last weight of a branch meets the bias of the layer
    before, and each sum of the last biases has the curvature of the loss, L times over. Nothing depends on n.

    Args:
        mean_gradient: e, mean over examples of the loss's gradient in f at f = x, shape [d].
        blocks: Number L of blocks, >= 1.
        layers_per_block: n, >= 3.
        inner_width: h, >= 1.
        loss_curvature: As in `biased_two_shortcut_spectrum`.

    Returns:
        Ascending, one value a parameter, shape [L (2 d h + (n - 2) h^2 + (n - 1) h + d)], in loss per squared
        parameter.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here; Li et al. (2016), arXiv:1611.01186, have no biases.
    """
    e = _column(mean_gradient, None)
    count, n = whole_number(blocks, "blocks", 1), whole_number(layers_per_block, "layers_per_block", 3)
    h, d = whole_number(inner_width, "inner_width", 1), len(e)
    size = float(np.linalg.norm(e))
    known = [np.repeat([-size, size], h * count), count * _loss_curvatures(loss_curvature, d)]
    parameters = count * (2 * d * h + (n - 2) * h**2 + (n - 1) * h + d)
    return np.sort(np.concatenate([*known, np.zeros(parameters - 2 * h * count - d)]))


def vanishing_spectrum(
    dim: int, blocks: int, layers_per_block: int = 2, inner_width: int | None = None
) -> NDArray[np.float64]:
    """Zeros, one a weight: what several operators are at the zero point of nets with n >= 2.

    Exactly zero there, whatever data and loss: the Gauss-Newton matrix and every Fisher matrix (the output does not
    move at first order in the branches' weights), so that tools that see positive semidefinite matrices only report
    no curvature; the diagonal block of the Hessian of each single layer (each layer enters linearly); and, as
    automatic differentiation returns it, the whole Hessian with ReLU between the layers of the branches. Only the
    Hessian of a pair (W^{l,1}, W^{l,2}) sees the n = 2 spectrum, and has the global condition number.

    Args:
        dim: Width d of the stream, >= 1.
        blocks: Number L of blocks, >= 1.
        layers_per_block: n, >= 2.
        inner_width: h, >= 1; `dim` unless given.

    Returns:
        Zeros, shape [L (2 d h + (n - 2) h^2)].

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    d, count = whole_number(dim, "dim", 1), whole_number(blocks, "blocks", 1)
    n = whole_number(layers_per_block, "layers_per_block", 2)
    h = d if inner_width is None else whole_number(inner_width, "inner_width", 1)
    return np.zeros(count * (2 * d * h + (n - 2) * h**2))


def two_shortcut_block_norms(G: ArrayLike, blocks: int) -> NDArray[np.float64]:
    """Spectral norm of every block of the Hessian between two layers, for n = 2 at zero.

    sigma_1(G) between the two layers of one block, zero everywhere else, the diagonal included: all curvature stands
    beside it.

    Args:
        G: `branch_correlation_matrix`, shape [d, d].
        blocks: Number L of blocks, >= 1.

    Returns:
        Symmetric, shape [2 L, 2 L], >= 0, in loss per squared parameter; layers from the input on.

    Raises:
        ValueError: G is not a finite square matrix, or `blocks` is below 1.

    Source:
        Li et al. (2016), arXiv:1611.01186, re-derived.
    """
    top = float(np.linalg.norm(square_matrix(G, "G"), 2))
    norms = np.kron(np.eye(whole_number(blocks, "blocks", 1)), top * np.array([[0.0, 1.0], [1.0, 0.0]]))
    return np.asarray(norms, dtype=np.float64)


def one_shortcut_block_norms(sigma_xx: ArrayLike, sigma_yx: ArrayLike, layers: int) -> NDArray[np.float64]:
    """Spectral norm of every block of the Hessian between two layers, for n = 1 at zero.

    The largest eigenvalue of Sigma_XX on the diagonal, and beside it the norm of I (x) Sigma_XX + B, however far the
    layers are apart; B as in `one_shortcut_hessian`.

    Args:
        sigma_xx: (1/m) sum x x^T, shape [d, d], symmetric.
        sigma_yx: (1/m) sum y x^T, shape [d, d].
        layers: Number L of layers, >= 1.

    Returns:
        Symmetric, shape [L, L], >= 0, in loss per squared parameter.

    Raises:
        ValueError: shapes do not match, sigma_xx is not symmetric, or `layers` is below 1.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    pair, count = one_shortcut_hessian(sigma_xx, sigma_yx, 2), whole_number(layers, "layers", 1)
    size = len(pair) // 2
    same, other = np.linalg.norm(pair[:size, :size], 2), np.linalg.norm(pair[size:, :size], 2)
    return np.full((count, count), other) + (same - other) * np.eye(count)


def _column(mean_gradient: ArrayLike, dim: int | None) -> NDArray[np.float64]:
    column = np.reshape(np.asarray(mean_gradient, dtype=np.float64), (-1, 1))
    return matrix(column, "mean_gradient", None if dim is None else (dim, 1))


def _loss_curvatures(loss_curvature: ArrayLike | None, dim: int) -> NDArray[np.float64]:
    """Eigenvalues of the loss's mean Hessian in the output; 1 throughout at half squared error."""
    if loss_curvature is None:
        return np.ones(dim)
    curvature = matrix(loss_curvature, "loss_curvature", (dim, dim))
    if np.abs(curvature - curvature.T).max() > 1e-10 * np.abs(curvature).max():
        raise ValueError(
            "loss_curvature must be symmetric: it is the mean Hessian of the loss in the output."
        )
    return np.asarray(np.linalg.eigvalsh(curvature), dtype=np.float64)
