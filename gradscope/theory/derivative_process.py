"""How does the input gradient of a wide ReLU net of one scalar input vary along that input?

For scalar inputs the usual product of derivative kernels is wrong: h' is correlated with h along the
only input direction. Right is the Gaussian process of the pair (h, h'), followed layer by layer.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import real_number, square_matrix, whole_number
from gradscope.theory.batch_norm_process import batch_norm_relu_moments

Normalisation = Literal["none", "mean", "batch"]


class DerivativeProcess(NamedTuple):
    """Covariances, over M grid points, of a unit's value h and its derivative h' in the input.

    Attributes:
        value: K_ij = cov(h_i, h_j), shape [M, M], symmetric.
        mixed: P_ij = cov(h_i, h'_j), shape [M, M].
        derivative: D_ij = cov(h'_i, h'_j), shape [M, M], symmetric.
    """

    value: NDArray[np.float64]
    mixed: NDArray[np.float64]
    derivative: NDArray[np.float64]


def plain_derivative_process(
    points: ArrayLike,
    depth: int,
    *,
    normalisation: Normalisation = "mean",
    bias_variance: float = 0.0,
    samples: int = 4096,
    generator: np.random.Generator | None = None,
) -> DerivativeProcess:
    """The process after L He-scaled layers h <- W relu(normalise(h)) + b, from h = w x + b.

    Args:
        points: Scalar inputs x, shape [M], M >= 2. Without biases no point may be 0, where h and so ReLU's
            derivative are degenerate.
        depth: Number L of ReLU layers, >= 1.
        normalisation: "mean" subtracts each unit's mean over the points, "batch" also divides by its standard
            deviation, "none" does neither; the statistics are frozen, not differentiated through. "none"
            and "mean" are exact; "batch" has no closed form and is sampled.
        bias_variance: Variance of every bias, >= 0, w x having variance x^2.
        samples: Units sampled per layer for "batch", >= 2; the error is that of a net of this width.
        generator: Source of randomness, needed for "batch".

    Returns:
        K, P, D of the last pre-activations, hence of the output and its input gradient.

    Raises:
        ValueError: an argument is outside its range, or "batch" comes without a generator.
        FloatingPointError: a pre-activation has no variance at some point.

    Source:
        Derived here: D = d^2 K / dx dx' for the kernel K of Cho & Saul, NIPS 2009. Experiment:
        Balduzzi et al. (2017), arXiv:1702.08591, Figures 1 and 2.
    """
    layers = whole_number(depth, "depth", 1)
    bias = real_number(bias_variance, "bias_variance", least=0)
    process = _scalar_inputs(points, bias)
    for _ in range(layers):
        value, mixed, derivative = _branch(process, normalisation, samples, generator)
        process = DerivativeProcess(value + bias, mixed, derivative)
    return process


def residual_derivative_process(
    points: ArrayLike,
    depth: int,
    beta: float = 1.0,
    *,
    normalisation: Normalisation = "batch",
    samples: int = 4096,
    generator: np.random.Generator | None = None,
) -> DerivativeProcess:
    """The process after L blocks h <- h + beta W relu(normalise(V h)), from h = w x.

    W is He-scaled and V of variance 1/N. V may be absent: at infinite width V h has the process of h.

    Args:
        points: Scalar inputs x, shape [M], M >= 2, none 0.
        depth: Number L of blocks, >= 1.
        beta: Factor of the branch, >= 0.
        normalisation, samples, generator: As in `plain_derivative_process`.

    Returns:
        K, P, D of the stream after the last block, hence of a linear readout.

    Raises:
        ValueError, FloatingPointError: As in `plain_derivative_process`.

    Source:
        Derived here. Experiment: Balduzzi et al. (2017), arXiv:1702.08591, Figures 1 and 2.
    """
    layers = whole_number(depth, "depth", 1)
    square = real_number(beta, "beta", least=0) ** 2
    stream = _scalar_inputs(points, 0.0)
    for _ in range(layers):
        branch = _branch(stream, normalisation, samples, generator)
        sums = (held + square * added for held, added in zip(stream, branch, strict=True))
        stream = DerivativeProcess(*sums)
    return stream


def expected_autocorrelation(derivative: ArrayLike, lags: ArrayLike) -> NDArray[np.float64]:
    """Expected autocorrelation r_k = tr_k(H D H) / tr(H D H) of gradient traces with covariance D.

    H removes a trace's mean over the grid, tr_k sums the k-th superdiagonal: the ratio of the expectations of
    sum_i z_i z_{i+k} and sum_i z_i^2, not the expectation of the ratio. "White" is at this grid's spacing.

    Args:
        derivative: D over an evenly spaced grid, shape [M, M].
        lags: Whole numbers in 0..M-1, any shape.

    Returns:
        Shape of `lags`, in [-1, 1], 1 at lag 0.

    Raises:
        ValueError: D is not a square matrix, or a lag is outside 0..M-1.
        FloatingPointError: the traces are constant over the grid, so that no autocorrelation is defined.

    Source:
        Derived here; the estimator is that of Balduzzi et al. (2017), arXiv:1702.08591, Figure 2.
    """
    D = square_matrix(derivative, "derivative")
    steps = np.asarray(lags)
    if steps.size == 0 or steps.dtype.kind not in "iu" or steps.min() < 0 or steps.max() >= len(D):
        raise ValueError(f"lags are whole numbers in 0..{len(D) - 1} for {len(D)} grid points, got {lags!r}.")
    centred = D - D.mean(axis=0) - D.mean(axis=1)[:, None] + D.mean()
    total = np.trace(centred)
    if total <= len(D) * np.finfo(np.float64).eps * np.trace(D):
        raise FloatingPointError("The gradient is constant over the grid: its autocorrelation is undefined.")
    return np.reshape([np.trace(centred, offset=int(step)) / total for step in steps.flat], steps.shape)


def _scalar_inputs(points: ArrayLike, bias: float) -> DerivativeProcess:
    x = np.asarray(points, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"points are scalar inputs: at least two finite numbers in a row, got {points!r}.")
    if bias == 0 and (x == 0).any():
        raise ValueError(
            "Without biases every pre-activation is 0 at x = 0, where ReLU has no derivative. "
            "Leave the point out (an even number of evenly spaced points does), or set bias_variance."
        )
    ones = np.ones_like(x)
    return DerivativeProcess(np.outer(x, x) + bias, np.outer(x, ones), np.outer(ones, ones))


def _branch(
    process: DerivativeProcess,
    normalisation: Normalisation,
    samples: int,
    generator: np.random.Generator | None,
) -> DerivativeProcess:
    """Covariances of W relu(normalise(h)) for h with covariances `process`, He-scaled W."""
    if normalisation == "batch":
        if generator is None:
            raise ValueError(
                'normalisation="batch" is sampled: pass generator=numpy.random.default_rng(seed).'
            )
        return DerivativeProcess(*batch_norm_relu_moments(*process, samples=samples, generator=generator))
    if normalisation == "mean":
        K, P, D = process
        K = K - K.mean(axis=0) - K.mean(axis=1)[:, None] + K.mean()
        return _relu(DerivativeProcess(K, P - P.mean(axis=0), D))
    if normalisation == "none":
        return _relu(process)
    raise ValueError(f'normalisation is "none", "mean" or "batch", got {normalisation!r}.')


def _relu(process: DerivativeProcess) -> DerivativeProcess:
    """Twice the second moments of (relu(h), relu'(h) h'), in closed form."""
    K, P, D = process
    a = np.diag(K)
    if a.min() <= 0:
        raise FloatingPointError(
            f"The pre-activation has no variance at grid point {int(a.argmin())}, where ReLU has no "
            "derivative. Move the points, or add biases."
        )
    correlation = np.clip(K / np.sqrt(np.outer(a, a)), -1, 1)
    np.fill_diagonal(correlation, 1)
    coactive = 1 - np.arccos(correlation) / math.pi
    S = np.sqrt(np.outer(a, a) * (1 - correlation) * (1 + correlation))
    # what a point's value says of the other's derivative beyond its own value, written as differences
    # of like terms: the expanded bracket cancels catastrophically between neighbouring points
    slope = np.diag(P)
    rest = P - K * (slope / a)
    bracket = rest * rest.T + (S / a) * (S / a[:, None]) * np.outer(slope, slope)
    # the bracket vanishes as S^2, so where S is rounding (1e-8 of its scale) there is nothing to add
    apart = (1 - np.abs(correlation)) > 1e-14
    correction = np.divide(bracket, math.pi * S, out=np.zeros_like(S), where=apart)
    new_D = coactive * D + correction
    np.fill_diagonal(new_D, np.diag(D))
    return DerivativeProcess(S / math.pi + K * coactive, S * (slope / a) / math.pi + coactive * P, new_D)
