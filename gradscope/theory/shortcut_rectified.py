"""What is the Hessian of 2-shortcut nets with ReLU, at zero weights or close to them?

A ReLU between the layers of a branch has no slope at 0. Where all weights are exactly zero, automatic differentiation
takes the slope 0 and returns a Hessian of zeros; what a net with small weights has is the limit below.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import matrix, square_matrix, whole_number
from gradscope.theory.shortcut_couplings import branch_correlation_matrix
from gradscope.theory.shortcut_hessian import two_shortcut_spectrum


def post_rectified_correlation_matrices(
    gradients: ArrayLike, x: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """G_1 = E[D g x^T] of the first block and G_2 = E[D g relu(x)^T] of all later ones; ReLU after each sum.

    At zero branches the net is f = relu(x) at every depth, D = diag(1[x > 0]) what its ReLUs let back.

    Args:
        gradients: g, each example's gradient of its loss in f at f = relu(x); relu(x) - y at half squared error;
            shape [m, d].
        x: Inputs, shape [m, d]. None may be exactly 0, where a ReLU has no slope.

    Returns:
        G_1 and G_2, shape [d, d], in loss per squared parameter.

    Raises:
        ValueError: shapes do not match, or an entry is not finite.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    inputs = matrix(x, "x")
    open_ = matrix(gradients, "gradients", inputs.shape) * (inputs > 0)
    return branch_correlation_matrix(open_, inputs), branch_correlation_matrix(open_, np.maximum(inputs, 0))


def post_rectified_spectrum(
    first: ArrayLike, later: ArrayLike, blocks: int, inner_width: int
) -> NDArray[np.float64]:
    """+-sigma(G_1), h times, and +-sigma(G_2), h (L - 1) times: all eigenvalues at zero with ReLU after each sum.

    The layers of a branch are linear, or have a smooth activation of slope c at 0 (then pass c G).

    Args:
        first, later: G_1 and G_2 of `post_rectified_correlation_matrices`, shape [d, d].
        blocks: Number L of blocks, >= 1.
        inner_width: h, >= 1.

    Returns:
        Ascending, shape [2 d h L], in units of G. From two blocks on, the condition number is the same for every L.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    count = whole_number(blocks, "blocks", 1)
    parts = [two_shortcut_spectrum(first, 1, inner_width)]
    if count > 1:
        parts.append(two_shortcut_spectrum(square_matrix(later, "later"), count - 1, inner_width))
    return np.sort(np.concatenate(parts))


def rectified_branch_spectrum(
    gradients: ArrayLike, branch_inputs: ArrayLike, first_weights: ArrayLike
) -> NDArray[np.float64]:
    """All eigenvalues with ReLU between the layers as the weights shrink to 0 in a fixed direction.

    Each hidden unit k of each block l has a matrix of its own, G_lk = E[g b^T 1(w_lk . b > 0)], and adds +-sigma(G_lk).
    Weights of scale s differ from the limit by O(s^2).

    Args:
        gradients: g, each example's gradient of its loss in f at f = x, shape [m, d].
        branch_inputs: b, what enters the branches (x, or the pre-activation of x), shape [m, d].
        first_weights: The first layers W^{l,1}, shape [blocks, h, d]; only the direction of each row counts.

    Returns:
        Ascending, shape [2 d h L], in loss per squared parameter.

    Raises:
        ValueError: shapes do not match, an entry is not finite, or a row of weights is zero and has no direction.

    Source:
        Derived here; Li et al. (2016), arXiv:1611.01186, use small random weights for this case.
    """
    b = matrix(branch_inputs, "branch_inputs")
    g = matrix(gradients, "gradients", b.shape)
    weights = np.asarray(first_weights, dtype=np.float64)
    if weights.ndim != 3 or weights.shape[2] != b.shape[1] or weights.size == 0:
        raise ValueError(
            f"first_weights must have shape [blocks, h, {b.shape[1]}], got {list(weights.shape)}. Stack W^{{l,1}}."
        )
    rows = matrix(weights.reshape(-1, b.shape[1]), "first_weights")
    if not rows.any(axis=1).all():
        raise ValueError(
            "A row of first_weights is zero: without a direction there is no limit, and at exact zero the Hessian "
            "that automatic differentiation returns is zero."
        )
    active = rows @ b.T > 0
    sigma = np.concatenate(
        [np.linalg.svd((g * on[:, None]).T @ b / len(b), compute_uv=False) for on in active]
    )
    return np.sort(np.concatenate([-sigma, sigma]))


def symmetric_rectified_branch_spectrum(G: ArrayLike, blocks: int, inner_width: int) -> NDArray[np.float64]:
    """+-sigma(G) / 2: the small-weight limit with ReLU between the layers where the data are symmetric.

    Symmetric: -b with gradient -g is as likely as b with g. Then every hidden unit sees G/2, whatever its direction,
    and the condition number is that of G, at every depth.

    Args:
        G: `branch_correlation_matrix`, shape [d, d].
        blocks: Number L of blocks, >= 1.
        inner_width: h, >= 1.

    Returns:
        Ascending, shape [2 d h L], in units of G. For one sample of m examples, not mirrored, it holds up to
        O(1/sqrt(m)).

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    return two_shortcut_spectrum(square_matrix(G, "G") / 2, blocks, inner_width)
