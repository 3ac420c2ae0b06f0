"""Which matrix takes the place of G in the Hessian of 2-shortcut nets, for other losses, maps and activations?

With every branch at zero the net is x -> U V x, and its loss moves by <G, W^{l,2} W^{l,1}> for each block and by
nothing else at second order. So any G below goes into `two_shortcut_spectrum` and `two_shortcut_condition_number`.

What breaks this: biases (`shortcut_breaks`), trained input or output maps (their gradient and Gauss-Newton blocks do
not vanish), a ReLU between the layers or after the sum (`shortcut_rectified`), and batch normalisation in the branch,
which turns zero into a point of slope 1/sqrt(eps).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import matrix, real_number


def branch_correlation_matrix(
    gradients: ArrayLike, branch_inputs: ArrayLike, *, slope: float = 1.0, output_map: ArrayLike | None = None
) -> NDArray[np.float64]:
    """G = c U^T (1/m) sum g b^T, for any twice differentiable loss of mean reduction.

    g is an example's gradient of its loss in the net's output, b what enters its branches:

    | net | g at | b | spectrum |
    |---|---|---|---|
    | f = blocks(x) | x | x | +-sigma(G), inner width x blocks times |
    | f = U blocks(V x), maps not trained | U V x | V x | the same; if U is d_y x d with d_y < d, zeros too |
    | pre-activation s: branch W2 W1 s(x) | x | s(x) | the same, whatever s |
    | smooth t between the layers, t(0) = 0 | x | x | the same, c = t'(0) |

    At half squared error g = f - y, so the first row is `residual_correlation_matrix`.

    Args:
        gradients: g, shape [m, d_y], m >= 1.
        branch_inputs: b, shape [m, d].
        slope: c, slope at 0 of the activation between the layers: 1 for tanh, 1/2 for GELU. Not defined for ReLU.
        output_map: U, shape [d_y, d]; None for the identity.

    Returns:
        Shape [d, d], in loss per squared parameter.

    Raises:
        ValueError: shapes do not match, or an entry is not finite.

    Source:
        Derived here; the pre-activation with a smooth activation between is the nonlinear case of Li et al. (2016),
        arXiv:1611.01186.
    """
    g, b = matrix(gradients, "gradients"), matrix(branch_inputs, "branch_inputs")
    if len(g) != len(b):
        raise ValueError(
            f"gradients and branch_inputs need a row for each example, got {len(g)} and {len(b)} rows."
        )
    behind = g if output_map is None else g @ matrix(output_map, "output_map", (g.shape[1], b.shape[1]))
    if behind.shape != b.shape:
        raise ValueError(
            f"gradients are {g.shape[1]} wide and branch_inputs {b.shape[1]}. Pass the output_map of shape "
            f"[{g.shape[1]}, {b.shape[1]}] that stands behind the blocks."
        )
    return real_number(slope, "slope") * behind.T @ b / len(b)


def cross_entropy_gradients(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """softmax(f) - one-hot(label), each example's gradient of the cross-entropy in its logits.

    Args:
        logits: f, shape [m, classes].
        labels: Whole numbers in [0, classes), shape [m].

    Returns:
        Shape [m, classes], dimensionless; every row adds up to 0.

    Raises:
        ValueError: logits are not finite, or labels are not what the logits need.
    """
    f, y = matrix(logits, "logits"), np.asarray(labels)
    if y.shape != f.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= f.shape[1]:
        raise ValueError(
            f"labels must be {len(f)} whole numbers in [0, {f.shape[1]}), got shape {list(y.shape)} of {y.dtype}."
        )
    p = np.exp(f - f.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), y] -= 1
    return p
