"""What takes the place of G in 2-shortcut nets of convolutions?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import whole_number


def convolution_correlation_matrix(
    gradients: ArrayLike, x: ArrayLike, kernel_size: int = 3
) -> NDArray[np.float64]:
    """M[(i, p), (j, q)] = E sum_s g_i(s) 1[s + p in the image] x_j(s + p + q), for blocks x + W2 * (W1 * x).

    s runs over pixels, p and q over the kernel's offsets from its centre; x is zero outside the image. The indicator
    is there because the layer between is padded with zeros, too: what W1 would give outside the image is never seen.
    All eigenvalues at zero are +-sigma(M), (inner channels) x (blocks) times: `two_shortcut_spectrum(M, blocks,
    inner_channels)`. Stride 1, no biases, padding that keeps the size.

    Args:
        gradients: g, each example's gradient of its loss in f at f = x; x - y at half squared error summed over
            channels and pixels; shape [m, c, height, width].
        x: Inputs, shape [m, c, height, width].
        kernel_size: k, odd, >= 1.

    Returns:
        Shape [k^2 c, k^2 c], in loss per squared parameter; rows (i, p) in the order of a kernel's entries. A 1x1
        kernel gives G summed over pixels.

    Raises:
        ValueError: shapes do not match, an entry is not finite, or the kernel is even.

    Source:
        Derived here for the setting of Li et al. (2016), arXiv:1611.01186.
    """
    images, g = np.asarray(x, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    if images.ndim != 4 or images.size == 0 or g.shape != images.shape:
        raise ValueError(
            "gradients and x are images of one shape [m, c, height, width], got "
            f"{list(g.shape)} and {list(images.shape)}."
        )
    if not (np.isfinite(images).all() and np.isfinite(g).all()):
        raise ValueError("gradients or x hold NaN or infinity; look at where they were computed.")
    k = whole_number(kernel_size, "kernel_size", 1)
    if k % 2 == 0:
        raise ValueError(f"kernel_size is odd, for an even kernel cannot keep the image's size, got {k}.")
    count, channels, height, width = images.shape
    margin = ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2))
    seen, behind = np.pad(images, margin), np.pad(g, margin)
    M = np.empty((channels, k, k, channels, k, k))
    # Summed over the pixels t = s + p of the layer between: g at t - p, x at t + q.
    for down, right in np.ndindex(k, k):
        top, left = k - 1 - down, k - 1 - right
        at = behind[:, :, top : top + height, left : left + width]
        for low, along in np.ndindex(k, k):
            image = seen[:, :, low : low + height, along : along + width]
            M[:, down, right, :, low, along] = np.einsum("nist,njst->ij", at, image)
    return M.reshape(channels * k * k, channels * k * k) / count
