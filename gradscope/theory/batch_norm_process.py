"""What does ReLU after per-unit batch normalisation do to a process of values and derivatives?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.theory._arguments import whole_number


def batch_norm_relu_moments(
    value: NDArray[np.float64],
    mixed: NDArray[np.float64],
    derivative: NDArray[np.float64],
    *,
    samples: int,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Twice the second moments of (relu(g), relu'(g) g'), g a unit's h normalised over the grid.

    Every unit draws its own function (h, h'), subtracts its own mean over the points and is divided by its
    own standard deviation, as batch normalisation with frozen statistics does. Dividing by the mean deviation
    instead is wrong for kernels of low rank, such as those of scalar inputs, so units are sampled; each is
    exact, and the error is that of averaging over `samples` of them.

    Args:
        value: K_ij = cov(h_i, h_j), shape [M, M].
        mixed: P_ij = cov(h_i, h'_j), shape [M, M].
        derivative: D_ij = cov(h'_i, h'_j), shape [M, M].
        samples: Number of units drawn, >= 2.
        generator: Source of randomness.

    Returns:
        K, P, D of W relu(g) for He-scaled W, each [M, M]; jointly positive semi-definite.

    Raises:
        ValueError: samples is below 2.
        FloatingPointError: a unit is constant over the points, and cannot be normalised.

    Source:
        Derived here; frozen statistics as in Balduzzi et al. (2017), arXiv:1702.08591, section 3.
    """
    count, points = whole_number(samples, "samples", 2), len(value)
    joint = np.block([[value, mixed], [mixed.T, derivative]])
    eigenvalues, vectors = np.linalg.eigh(joint)
    # a covariance has no negative eigenvalue; those of rounding are dropped with the null space
    kept = eigenvalues > 2 * points * np.finfo(np.float64).eps * eigenvalues[-1]
    root = vectors[:, kept] * np.sqrt(eigenvalues[kept])
    units = generator.standard_normal((count, root.shape[1])) @ root.T
    h, slope = units[:, :points], units[:, points:]
    h = h - h.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(h).mean(axis=1, keepdims=True))
    if deviation.min() == 0:
        raise FloatingPointError("A unit is constant over the points: batch normalisation divides by zero.")
    output = np.maximum(h, 0) / deviation
    gradient = (h > 0) * slope / deviation
    scale = 2 / count
    return scale * output.T @ output, scale * output.T @ gradient, scale * gradient.T @ gradient
