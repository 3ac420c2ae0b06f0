"""What is the Hessian of a linear net with n-layer shortcuts where all its weights are zero?

Net: f(x) = (I + W^{L,n}..W^{L,1}) .. (I + W^{1,n}..W^{1,1}) x, L blocks, no biases; loss
(1/2m) sum |y - f(x)|^2 over m examples. `nn.MSELoss` is 2/d times this loss, and so are its eigenvalues.
All laws: Li, Jiao, Han, Weissman, Demystifying ResNet, arXiv:1611.01186, re-derived and checked against
dense Hessians. Other losses, fixed maps, activations and convolutions: `shortcut_couplings`, `shortcut_rectified`,
`shortcut_convolution`; small weights: `shortcut_order`; depth at n = 1: `shortcut_growth`; what breaks it all:
`shortcut_breaks`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import matrix, real_number, square_matrix, whole_number


def residual_correlation_matrix(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """G = Sigma_XX - Sigma_YX = (1/m) sum (x - y) x^T, the correlation of residual and input at f = identity.

    The only thing the data contribute to the Hessian of 2-shortcut nets. Whitened inputs and targets
    y = R x give G = I - R.

    Args:
        x: Inputs, shape [m, d], m >= 1.
        y: Targets, shape [m, d]: as wide as the inputs, since f starts as the identity.

    Returns:
        Shape [d, d], in squared units of the data; not symmetric in general.

    Raises:
        ValueError: shapes do not match, or an entry is not finite.

    Source:
        Li et al. (2016), arXiv:1611.01186.
    """
    inputs = matrix(x, "x")
    targets = matrix(y, "y")
    if inputs.shape != targets.shape:
        raise ValueError(
            "x and y need the same shape [m, d], since the net starts as the identity, got "
            f"{list(inputs.shape)} and {list(targets.shape)}. Reduce or pad one of them to the other's width."
        )
    return (inputs - targets).T @ inputs / len(inputs)


def two_shortcut_spectrum(G: ArrayLike, blocks: int, inner_width: int) -> NDArray[np.float64]:
    """All Hessian eigenvalues for n = 2 at zero: +-sigma_i(G), each inner_width * blocks times.

    The gradient is zero, blocks do not couple, half of the eigenvalues are negative, and the trace is 0.
    Holds for any twice differentiable loss with G = E[(dl/df) x^T], `branch_correlation_matrix`. Weights of scale s
    move the eigenvalues by O(s^2). Biases break it: `biased_two_shortcut_spectrum`.

    Args:
        G: `residual_correlation_matrix`, shape [d, d].
        blocks: Number L of blocks, >= 1.
        inner_width: Width h between the two layers of a block (W^{l,1} is [h, d]), >= 1.

    Returns:
        Ascending, shape [2 d h L], in loss per squared parameter, the unit of G.

    Raises:
        ValueError: G is not a finite square matrix, or a count is below 1.

    Source:
        Li et al. (2016), arXiv:1611.01186, re-derived.
    """
    copies = whole_number(blocks, "blocks", 1) * whole_number(inner_width, "inner_width", 1)
    sigma = np.linalg.svd(square_matrix(G, "G"), compute_uv=False)
    return np.sort(np.repeat(np.concatenate([-sigma, sigma]), copies))


def two_shortcut_condition_number(G: ArrayLike) -> float:
    """|lambda|_max / |lambda|_min = sigma_max(G) / sigma_min(G) for n = 2 at zero, at every depth and width.

    Args:
        G: `residual_correlation_matrix`, shape [d, d].

    Returns:
        In [1, inf]. Infinite where G is singular (sigma_min <= d * 2.2e-16 * sigma_max, below which
        float64 cannot tell it from zero): some direction is already fitted or absent from the data, and
        the Hessian has exact zeros.

    Raises:
        ValueError: G is not a finite square matrix, or is zero: the Hessian vanishes, and 0/0 is no number.

    Source:
        Li et al. (2016), arXiv:1611.01186, there written sqrt(cond(G^T G)).
    """
    sigma = np.linalg.svd(square_matrix(G, "G"), compute_uv=False)
    if sigma[0] == 0:
        raise ValueError("G is zero (y = x on the data): the Hessian is zero and has no condition number.")
    if sigma[-1] <= len(sigma) * np.finfo(np.float64).eps * sigma[0]:
        return math.inf
    return float(sigma[0] / sigma[-1])


def one_shortcut_hessian(sigma_xx: ArrayLike, sigma_yx: ArrayLike, layers: int) -> NDArray[np.float64]:
    """The dense Hessian for n = 1 at zero, which is that of a plain linear net at identity weights.

    Block Toeplitz in L x L blocks of d^2 x d^2: A = I (x) Sigma_XX on the diagonal, A + B for
    (later, earlier) layer, its transpose above the diagonal, where B takes W to G W^T. The point is not
    stationary: every layer's gradient is G.

    Args:
        sigma_xx: (1/m) sum x x^T, shape [d, d], symmetric.
        sigma_yx: (1/m) sum y x^T, shape [d, d].
        layers: Number L of layers, >= 1.

    Returns:
        Symmetric, shape [L d^2, L d^2]; parameters ordered by layer, each W row by row.

    Raises:
        ValueError: shapes do not match, sigma_xx is not symmetric, or layers is below 1.

    Source:
        Li et al. (2016), arXiv:1611.01186, for the case; the blocks are derived.
    """
    xx = square_matrix(sigma_xx, "sigma_xx")
    yx = matrix(sigma_yx, "sigma_yx", xx.shape)
    if np.abs(xx - xx.T).max() > 1e-10 * np.abs(xx).max():
        raise ValueError("sigma_xx must be symmetric: it is (1/m) sum x x^T. Is it sigma_yx by mistake?")
    count, dim = whole_number(layers, "layers", 1), len(xx)
    A = np.kron(np.eye(dim), xx)
    B = np.einsum("ij,kl->iklj", xx - yx, np.eye(dim)).reshape(dim**2, dim**2)
    below = np.tril(np.ones((count, count)), -1)
    return np.kron(np.ones((count, count)), A) + np.kron(below, B) + np.kron(below.T, B.T)


def isotropic_one_shortcut_spectrum(s: float, c: float, dim: int, layers: int) -> NDArray[np.float64]:
    """All Hessian eigenvalues for n = 1 at zero where Sigma_XX = s I and Sigma_YX = c I.

    With g = s - c: -g and g, (L-1) d (d+1)/2 and (L-1) d (d-1)/2 times; L s + (L-1) g and L s - (L-1) g,
    d (d+1)/2 and d (d-1)/2 times. The condition number is linear in depth, and infinite at g = 0 if L > 1.

    Args:
        s: Variance of the inputs, > 0.
        c: Covariance of targets with inputs, any finite number.
        dim: Width d, >= 1.
        layers: Number L of layers, >= 1.

    Returns:
        Ascending, shape [L d^2].

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    scale = real_number(s, "s", above=0)
    g = scale - real_number(c, "c")
    d, count = whole_number(dim, "dim", 1), whole_number(layers, "layers", 1)
    symmetric, skew = d * (d + 1) // 2, d * (d - 1) // 2
    top, shift = count * scale, (count - 1) * g
    values = [-g, g, top + shift, top - shift]
    times = [(count - 1) * symmetric, (count - 1) * skew, symmetric, skew]
    return np.sort(np.repeat(values, times))


def higher_shortcut_spectrum(
    dim: int, blocks: int, layers_per_block: int, inner_width: int | None = None
) -> NDArray[np.float64]:
    """All Hessian eigenvalues for n >= 3 at zero: zeros, one a weight, whatever the data.

    Gradient and Hessian vanish exactly and the loss moves at order n in the weights, so that no condition
    number exists: an extremely flat stationary point. Close to it: `small_weight_spectrum`. Biases break it:
    `biased_higher_shortcut_spectrum`.

    Args:
        dim: Width d of the stream, >= 1.
        blocks: Number L of blocks, >= 1.
        layers_per_block: Number n of layers a shortcut spans, >= 3.
        inner_width: Width h inside a block, >= 1; `dim` unless given.

    Returns:
        Zeros, shape [L (2 d h + (n - 2) h^2)].

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Li et al. (2016), arXiv:1611.01186, re-derived.
    """
    d, count = whole_number(dim, "dim", 1), whole_number(blocks, "blocks", 1)
    n = whole_number(layers_per_block, "layers_per_block", 3)
    h = d if inner_width is None else whole_number(inner_width, "inner_width", 1)
    return np.zeros(count * (2 * d * h + (n - 2) * h**2))
