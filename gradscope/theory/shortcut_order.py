"""To which order do loss, gradient and Hessian of n-shortcut linear nets move away from the zero point?

Weights s W give L(s W) = L(0) + s^n sum_l <G, W^{l,n}..W^{l,1}> + O(s^{2n}): blocks meet each other only at order 2n.
So all derivatives of order below n vanish at zero, the gradient is O(s^{n-1}) and the Hessian O(s^{n-2}): for n >= 3
the start is flat, the flatter the smaller the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import matrix, square_matrix

Branches = Sequence[Sequence[ArrayLike]]


def small_weight_loss_change(G: ArrayLike, branches: Branches) -> float:
    """sum_l <G, W^{l,n}..W^{l,1}>: L(W) - L(0) to leading order, that is but for O(s^{2n}).

    Args:
        G: `branch_correlation_matrix`, shape [d, d].
        branches: For every block its weights W^{l,1}, .., W^{l,n}, input side first, n >= 1; no biases.

    Returns:
        In units of the loss; the relative error is O(s^n) in the scale s of the weights.

    Raises:
        ValueError: shapes do not fit, or an entry is not finite.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    correlation = square_matrix(G, "G")
    return float(
        sum(np.sum(correlation * _product(w, len(correlation))) for w in _checked(correlation, branches))
    )


def small_weight_gradient(G: ArrayLike, branches: Branches) -> list[list[NDArray[np.float64]]]:
    """(W^{l,n}..W^{l,i+1})^T G (W^{l,i-1}..W^{l,1})^T: the gradient of each weight, O(s^{n-1}), but for O(s^{2n-1}).

    Args:
        G: `branch_correlation_matrix`, shape [d, d].
        branches: For every block its weights, input side first, n >= 1.

    Returns:
        Arrays of the weights' shapes, nested as `branches`, in loss per parameter.

    Raises:
        ValueError: shapes do not fit, or an entry is not finite.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    correlation = square_matrix(G, "G")
    d = len(correlation)
    return [
        [_product(w[i + 1 :], d).T @ correlation @ _product(w[:i], d).T for i in range(len(w))]
        for w in _checked(correlation, branches)
    ]


def small_weight_spectrum(G: ArrayLike, branches: Branches) -> NDArray[np.float64]:
    """All Hessian eigenvalues of n-shortcut nets of small weights, n >= 2, but for O(s^{2n-2}).

    Blocks do not couple. Within one, the layers j > i do, by (W^{n}..W^{j+1})^T G (W^{i-1}..W^{1})^T (x)
    W^{j-1}..W^{i+1}, and no layer has curvature of its own, so the trace is 0. For n = 2 this is +-sigma(G) whatever
    the weights; for n = 3 all eigenvalues are proportional to the weights' scale s, and the ratio of two of them
    depends on the weights' directions and on nothing else: no closed form without weights, hence no condition number
    to speak of.

    Args:
        G: `branch_correlation_matrix`, shape [d, d].
        branches: For every block its weights, input side first, n >= 2.

    Returns:
        Ascending, one value a weight, in loss per squared parameter; relative error O(s^n).

    Raises:
        ValueError: shapes do not fit, an entry is not finite, or a block has one layer: at n = 1 blocks couple at
            order 0, see `one_shortcut_hessian`.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    correlation = square_matrix(G, "G")
    blocks = _checked(correlation, branches)
    if min(len(w) for w in blocks) < 2:
        raise ValueError(
            "small_weight_spectrum needs blocks of two layers or more; see one_shortcut_hessian for n = 1."
        )
    return np.sort(np.concatenate([np.linalg.eigvalsh(_block(correlation, w)) for w in blocks]))


def _block(G: NDArray[np.float64], w: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The leading Hessian of one block, every weight row by row."""
    ends = np.cumsum([0, *(weight.size for weight in w)])
    H = np.zeros((ends[-1], ends[-1]))
    for j in range(len(w)):
        for i in range(j):
            outer = _product(w[j + 1 :], len(G)).T @ G @ _product(w[:i], len(G)).T
            between = _product(w[i + 1 : j], w[i].shape[0])
            coupling = np.einsum("ad,bc->abcd", outer, between).reshape(w[j].size, w[i].size)
            H[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = coupling
            H[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = coupling.T
    return H


def _product(weights: Sequence[NDArray[np.float64]], width: int) -> NDArray[np.float64]:
    """The product of the matrices, the first nearest to the input; the identity of `width` where there is none."""
    result = np.eye(width)
    for index, weight in enumerate(weights):
        result = weight if index == 0 else weight @ result
    return result


def _checked(G: NDArray[np.float64], branches: Branches) -> list[list[NDArray[np.float64]]]:
    blocks = [[matrix(weight, "a weight") for weight in branch] for branch in branches]
    if not blocks or not all(blocks):
        raise ValueError(
            "branches is a list of blocks, each a list of one or more weights, input side first."
        )
    for weights in blocks:
        widths = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
        fits = all(w.shape[1] == width for w, width in zip(weights, widths, strict=False))
        if not fits or widths[0] != len(G) or widths[-1] != len(G):
            raise ValueError(
                f"The weights of a block must lead from {len(G)} numbers to {len(G)}, input side first, got shapes "
                f"{', '.join(str(list(weight.shape)) for weight in weights)}."
            )
    return blocks
