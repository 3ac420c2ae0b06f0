"""Which gradient correlations follow from the inputs of one batch as they are: grids, classes, real data?

The laws with one number per layer hold for inputs that are all alike to each other. Here the whole kernel matrix of
a batch is followed instead, at infinite width and high input dimension (`derivative_process` is for scalars).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import real_number, square_matrix, whole_number
from gradscope.theory.arc_cosine import k0, k1

Normalisation = Literal["none", "mean", "batch"]


@dataclass(frozen=True)
class BatchMeanField:
    """Kernels of a batch at depths 1..L.

    Attributes:
        depth: Number of layers or blocks crossed, shape [L].
        kernel: cov of a unit's values for two inputs as they enter layer l, shape [L, B, B]; without batch
            normalisation divided by (alpha^2 + beta^2)^(l-1), on which nothing depends.
        gradient: E[g_i g_j] after crossing l layers over its mean diagonal entry, shape [L, B, B].
        log_gradient_variance: Natural logarithm of that mean, which is 1 at the output, shape [L].
    """

    depth: NDArray[np.int64]
    kernel: NDArray[np.float64]
    gradient: NDArray[np.float64]
    log_gradient_variance: NDArray[np.float64]

    @property
    def gradient_correlation(self) -> NDArray[np.float64]:
        """R of Definition 1 as a ratio of sums: mean off-diagonal over mean diagonal entry, shape [L]."""
        batch = self.gradient.shape[-1]
        diagonal = np.trace(self.gradient, axis1=1, axis2=2)
        # without the diagonal from the start: taking it off a sum loses what is below 1e-16 of it
        off = (self.gradient * (1 - np.eye(batch))).sum(axis=(1, 2))
        return np.asarray(off / (batch - 1) / diagonal, dtype=np.float64)

    @property
    def cosine(self) -> NDArray[np.float64]:
        """R(i, j) for every pair of inputs, shape [L, B, B], 1 on the diagonal."""
        size = np.sqrt(np.diagonal(self.gradient, axis1=1, axis2=2))
        return np.asarray(self.gradient / (size[:, :, None] * size[:, None, :]), dtype=np.float64)


def batch_kernel_correlation(
    kernel: ArrayLike,
    depth: int,
    *,
    alpha: float = 0.0,
    beta: float = 1.0,
    normalisation: Normalisation = "mean",
    samples: int = 4096,
    generator: np.random.Generator | None = None,
) -> BatchMeanField:
    """Follow a batch through L layers x <- alpha x + beta W relu(normalise(x)), He-scaled W, frozen statistics.

    "mean": K is centred to H K H, H = I - 1 1^T / B, and the kernels of `arc_cosine` act on its entries: exact.
    "none": the same without H. "batch": each unit is also divided by its own standard deviation over the batch, for
    which there is no closed form; `samples` units are drawn. Replacing a unit's variance by the mean one is wrong
    where K is of low rank (grids, few clusters). The gradient's covariance, all ones at the output, is multiplied
    entry by entry by alpha^2 + beta^2 times the co-activation kernel.

    Args:
        kernel: K_ij = x_i . x_j / d of the inputs, or of whatever enters the first normalisation, shape [B, B],
            symmetric positive semi-definite, B >= 2. Its scale matters only for "batch" with alpha != 0.
        depth: Number L of layers or blocks, >= 1.
        alpha: Factor of the skip; 0 is a plain net.
        beta: Factor of the branch, >= 0.
        normalisation: "none", "mean" or "batch".
        samples: Units drawn per layer for "batch", >= 2; the error is that of one net of this width.
        generator: Source of randomness, needed for "batch".

    Returns:
        Kernels and gradients at depths 1..L.

    Raises:
        ValueError: an argument is outside its range, or "batch" comes without a generator.
        FloatingPointError: an input has no variance left, or a unit none over the batch.

    Source:
        Derived; kernels: Cho & Saul, NIPS 2009; setting: Balduzzi et al. (2017), arXiv:1702.08591.
    """
    K, layers = _checked(kernel), whole_number(depth, "depth", 1)
    skip, branch = real_number(alpha, "alpha") ** 2, real_number(beta, "beta", least=0) ** 2
    if skip + branch == 0:
        raise ValueError("A block with alpha = beta = 0 lets no gradient through. Set one of them.")
    count = whole_number(samples, "samples", 2)
    gradient, logarithm = np.ones_like(K), 0.0
    kernels, gradients, factors = [], [], []
    for _ in range(layers):
        kernels.append(K)
        if normalisation == "batch":
            if generator is None:
                raise ValueError(
                    'normalisation="batch" is sampled: pass generator=numpy.random.default_rng(seed).'
                )
            values, slopes = _normalised(K, count, generator)
        elif normalisation in ("none", "mean"):
            values, slopes = _rectified(_centred(K) if normalisation == "mean" else K, np.diag(K).max())
        else:
            raise ValueError(f'normalisation is "none", "mean" or "batch", got {normalisation!r}.')
        # Only ratios of kernels act where nothing is divided by: held at one scale, they cannot overflow.
        scale = 1.0 if normalisation == "batch" else skip + branch
        K = (skip * K + branch * values) / scale
        gradient = gradient * (skip + branch * slopes)
        size = float(np.trace(gradient)) / len(gradient)
        gradient, logarithm = gradient / size, logarithm + math.log(size)
        gradients.append(gradient)
        factors.append(logarithm)
    return BatchMeanField(np.arange(1, layers + 1), np.array(kernels), np.array(gradients), np.array(factors))


def _centred(K: NDArray[np.float64]) -> NDArray[np.float64]:
    return K - K.mean(axis=0) - K.mean(axis=1)[:, None] + K.mean()


def _rectified(K: NDArray[np.float64], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Twice the second moments of relu(h) and of relu'(h), for h with covariance K."""
    size = np.diag(K)
    if size.min() <= 1e-14 * scale:
        raise FloatingPointError(
            f"Input {int(size.argmin())} has no variance left before a ReLU, whose derivative is then undefined. "
            "With centring, this is an input equal to the batch's mean."
        )
    root = np.sqrt(np.outer(size, size))
    cosine = np.clip(K / root, -1, 1)
    np.fill_diagonal(cosine, 1)
    return root * k1(cosine), k0(cosine)


def _normalised(
    K: NDArray[np.float64], samples: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same for h normalised over the batch, unit by unit, and of its derivative relu'(h) / deviation."""
    eigenvalues, vectors = np.linalg.eigh(_centred(K))
    # a covariance has no negative eigenvalue; those of rounding are dropped with the null space
    kept = eigenvalues > 2 * len(K) * np.finfo(np.float64).eps * eigenvalues[-1]
    root = vectors[:, kept] * np.sqrt(eigenvalues[kept])
    h = generator.standard_normal((samples, root.shape[1])) @ root.T
    deviation = np.sqrt(np.square(h).mean(axis=1, keepdims=True))
    if root.shape[1] == 0 or deviation.min() == 0:
        raise FloatingPointError("A unit is constant over the batch: batch normalisation divides by zero.")
    output, slope = np.maximum(h, 0) / deviation, (h > 0) / deviation
    return 2 / samples * output.T @ output, 2 / samples * slope.T @ slope


def _checked(kernel: ArrayLike) -> NDArray[np.float64]:
    K = square_matrix(kernel, "kernel")
    if len(K) < 2:
        raise ValueError("A correlation between inputs needs at least two: kernel is 1 x 1.")
    size = np.abs(K).max()
    if np.abs(K - K.T).max() > 1e-9 * size:
        raise ValueError("kernel must be symmetric: K_ij = x_i . x_j / d of a batch's inputs.")
    if np.linalg.eigvalsh(K)[0] < -1e-8 * size * len(K):
        raise ValueError("kernel has a negative eigenvalue, which no inputs have. Build it as X @ X.T / d.")
    return K
