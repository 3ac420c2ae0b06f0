"""What do autocorrelation, spectral slope and von Neumann ratio say about white and brown noise themselves?"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import square_matrix, whole_number
from gradscope.theory.derivative_process import expected_autocorrelation

Noise = Literal["white", "brown"]
Quantity = Literal["autocorrelation", "spectral_slope", "von_neumann_ratio"]


class NoiseBand(NamedTuple):
    """Mean over traces, and the band that holds 95 % of single traces; each with one entry per lag, or scalar.

    Attributes:
        mean: Mean over the drawn traces.
        low: Their 2.5 % quantile.
        high: Their 97.5 % quantile.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def noise_covariance(kind: Noise, points: int) -> NDArray[np.float64]:
    """Covariance of white (identity) or brown (min(i, j), i = 1..M, over M) noise on M evenly spaced points.

    Args:
        kind: "white" or "brown".
        points: M >= 2.

    Returns:
        Shape [M, M].

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591: B(t) = sum_{s <= t} W_s, W_s ~ N(0, 1/M).
    """
    M = whole_number(points, "points", 2)
    if kind == "white":
        return np.eye(M)
    if kind == "brown":
        steps = np.arange(1, M + 1)
        return np.minimum.outer(steps, steps) / M
    raise ValueError(f'kind is "white" or "brown", got {kind!r}.')


def noise_autocorrelation(kind: Noise, points: int, lags: ArrayLike) -> NDArray[np.float64]:
    """Expected autocorrelation of noise on M points, mean removed: `expected_autocorrelation` of its covariance.

    White: -(M - k) / (M (M - 1)) at lag k >= 1, for removing the mean bends it down. Brown: 0.981, 0.905 and 0.727 at
    lags 1, 5 and 15 for M = 256, as ratios of expectations; single traces lie lower (0.971, 0.862, 0.628), far apart.

    Args:
        kind: "white" or "brown".
        points: M >= 2.
        lags: Whole numbers in 0..M-1, any shape.

    Returns:
        Shape of `lags`, in [-1, 1], 1 at lag 0.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived; the estimator is that of Balduzzi et al. (2017), arXiv:1702.08591, Figure 2.
    """
    return expected_autocorrelation(noise_covariance(kind, points), lags)


def expected_von_neumann_ratio(covariance: ArrayLike) -> float:
    """E[sum (g_{i+1} - g_i)^2] / E[sum (g_i - mean)^2] of traces with a given covariance.

    2 for white noise at any M, 6 / (M + 1) for brown noise. Near 2: neighbours have nothing in common.

    Args:
        covariance: D over an evenly spaced grid, shape [M, M], M >= 2; `noise_covariance`, or the `derivative` of a
            `DerivativeProcess`.

    Returns:
        In [0, 4], dimensionless.

    Raises:
        ValueError: the covariance is no square matrix of at least 2 x 2.
        FloatingPointError: the traces are constant over the grid.

    Source:
        von Neumann (1941), The Annals of Mathematical Statistics 12(4), for the ratio; as a function of the
        covariance derived.
    """
    D = square_matrix(covariance, "covariance")
    if len(D) < 2:
        raise ValueError("A step needs two points: covariance is 1 x 1.")
    size = np.diag(D)
    total = np.trace(D) - D.mean() * len(D)
    if total <= len(D) * np.finfo(np.float64).eps * np.trace(D):
        raise FloatingPointError("The trace is constant over the grid: its von Neumann ratio is undefined.")
    steps = size[1:] + size[:-1] - np.diag(D, 1) - np.diag(D, -1)
    return float(steps.sum() / total)


def noise_traces(kind: Noise, points: int, draws: int, seed: int) -> NDArray[np.float64]:
    """Draws of white noise, or of its running sum.

    Args:
        kind: "white" or "brown".
        points: M >= 2.
        draws: Number of traces, >= 1.
        seed: Of numpy's default generator, >= 0.

    Returns:
        Shape [draws, M], with covariance `noise_covariance`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591.
    """
    M, count = whole_number(points, "points", 2), whole_number(draws, "draws", 1)
    traces = np.random.default_rng(whole_number(seed, "seed", 0)).standard_normal((count, M))
    if kind == "white":
        return traces
    if kind == "brown":
        return np.cumsum(traces, axis=1) / np.sqrt(M)
    raise ValueError(f'kind is "white" or "brown", got {kind!r}.')


def noise_band(
    kind: Noise,
    points: int,
    lags: ArrayLike = (),
    draws: int = 2000,
    *,
    quantity: Quantity = "autocorrelation",
    seed: int = 0,
) -> NoiseBand:
    """Mean and 95 % band of what single traces of noise show, by simulation.

    A measured trace inside the band cannot be told from the noise by this number. The spectral slope is fitted as in
    `measures.trace`: mean removed, Hann window, lowest half of the frequencies; it is about 0 and -2.

    Args:
        kind: "white" or "brown".
        points: M >= 2; >= 8 for "spectral_slope".
        lags: Whole numbers in 0..M-1, shape [n], for "autocorrelation" and nothing else.
        draws: Number of traces, >= 100. The ends of the band are uncertain by about 2.7 standard deviations of the
            quantity over sqrt(draws).
        quantity: "autocorrelation" (biased estimator), "spectral_slope" or "von_neumann_ratio".
        seed: Of numpy's default generator.

    Returns:
        Mean, low, high: shape [n] for "autocorrelation", scalars otherwise.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Figure 2, for the comparison.
    """
    M, count = whole_number(points, "points", 2), whole_number(draws, "draws", 100)
    steps = np.asarray(lags)
    if quantity != "autocorrelation" and steps.size:
        raise ValueError(f"lags belong to the autocorrelation; {quantity!r} takes none.")
    traces = noise_traces(kind, M, count, seed)
    z = traces - traces.mean(axis=1, keepdims=True)
    if quantity == "autocorrelation":
        if steps.ndim != 1 or not steps.size or steps.dtype.kind not in "iu" or not (steps >= 0).all():
            raise ValueError(f"lags are whole numbers in 0..{M - 1}, at least one, got {lags!r}.")
        if steps.max() >= M:
            raise ValueError(f"lags are whole numbers in 0..{M - 1} for {M} points, got {lags!r}.")
        products = [np.einsum("di,di->d", z[:, : M - k], z[:, k:]) for k in steps]
        values = np.stack(products, axis=1) / np.square(z).sum(axis=1)[:, None]
    elif quantity == "von_neumann_ratio":
        values = np.square(np.diff(traces, axis=1)).sum(axis=1) / np.square(z).sum(axis=1)
    elif quantity == "spectral_slope":
        values = _spectral_slopes(z)
    else:
        raise ValueError(
            f'quantity is "autocorrelation", "spectral_slope" or "von_neumann_ratio", got {quantity!r}.'
        )
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return NoiseBand(values.mean(axis=0), low, high)


def _spectral_slopes(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    M = centred.shape[1]
    if M < 8:
        raise ValueError(f"A spectral slope needs at least 8 points, got {M}.")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(M) / M)
    used = M // 4
    power = np.log(np.square(np.abs(np.fft.rfft(centred * window, axis=1)[:, 1 : used + 1])))
    frequency = np.log(np.arange(1, used + 1))
    frequency = frequency - frequency.mean()
    return np.asarray(power @ frequency / np.square(frequency).sum(), dtype=np.float64)
