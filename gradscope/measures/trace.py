"""What a gradient trace along a line looks like: brown noise, white noise, or something between."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDINGS = 64


def rounding_of(trace: Tensor) -> Tensor:
    """How far values that should be equal may lie apart, along the last axis: 64 units in the last place.

    Removing the mean of a constant trace would leave that rounding alone, and its autocorrelation is a number like
    any other.

    Args:
        trace: Shape [..., M], in the precision in which it was computed.

    Returns:
        Shape [...], float64, in the units of the trace.
    """
    precision = torch.finfo(trace.dtype).eps if trace.is_floating_point() else 0.0
    return ROUNDINGS * precision * trace.double().abs().amax(dim=-1)


def _constant(trace: Tensor) -> Tensor:
    values = trace.double()
    return values.amax(dim=-1) - values.amin(dim=-1) <= rounding_of(trace)


def autocorrelation(trace: Tensor, lags: int) -> Tensor:
    """Autocorrelation of evenly spaced values at lags 0..lags, mean removed.

    The standard biased estimator r_k = sum_{i <= M-k} z_i z_{i+k} / sum_i z_i^2 with z = g - mean(g). It is
    bounded by 1 and positive semi-definite; white noise has mean -1/M and standard deviation 1/sqrt(M).

    Args:
        trace: Values on an even grid, shape [..., M].
        lags: Largest lag, below M.

    Returns:
        Shape [..., lags + 1], dimensionless, float64; r_0 = 1. NaN for a trace without variance but that of rounding.

    Raises:
        ValueError: Fewer than two values, or a lag that the trace is too short for.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 2.
    """
    points = trace.shape[-1] if trace.ndim else 0
    if points < 2 or not 0 <= lags < points:
        raise ValueError(
            f"autocorrelation at lags 0..{lags} needs more than {max(lags, 1)} values, got {points}."
        )
    centred = trace.double() - trace.double().mean(dim=-1, keepdim=True)
    products = [(centred[..., : points - k] * centred[..., k:]).sum(dim=-1) for k in range(lags + 1)]
    result = torch.stack(products, dim=-1) / products[0].unsqueeze(-1)
    return torch.where(_constant(trace).unsqueeze(-1), math.nan, result)


def spectral_slope(trace: Tensor) -> Tensor:
    """Slope of log power against log frequency: 0 for white noise, -2 for brown noise.

    Least squares over the lowest half of the frequencies of the periodogram, mean removed, Hann window.
    The whole band would bias brown noise to about -1.8.

    Args:
        trace: Values on an even grid, shape [..., M] with M >= 8.

    Returns:
        Shape [...], dimensionless, float64. NaN for a trace without variance.

    Raises:
        ValueError: Fewer than eight values.
    """
    points = trace.shape[-1] if trace.ndim else 0
    if points < 8:
        raise ValueError(f"spectral_slope needs at least 8 values to fit a slope, got {points}.")
    values = trace.double()
    window = torch.hann_window(points, dtype=values.dtype, device=values.device)
    spectrum = torch.fft.rfft((values - values.mean(dim=-1, keepdim=True)) * window).abs().square()
    used = points // 4
    power = spectrum[..., 1 : used + 1].log()
    frequency = torch.arange(1, used + 1, dtype=values.dtype, device=values.device).log()
    frequency = frequency - frequency.mean()
    slope = (power * frequency).sum(dim=-1) / frequency.square().sum()
    return torch.where(_constant(trace) | ~torch.isfinite(slope), math.nan, slope)


def von_neumann_ratio(trace: Tensor) -> Tensor:
    """Sum of squared steps over the sum of squared deviations: 2 for white noise, near 0 for brown.

    Args:
        trace: Values on an even grid, shape [..., M] with M >= 2.

    Returns:
        Shape [...], dimensionless, in [0, 4], float64. NaN for a trace without variance.

    Raises:
        ValueError: Fewer than two values.
    """
    if trace.ndim == 0 or trace.shape[-1] < 2:
        raise ValueError(f"von_neumann_ratio needs at least 2 values, got shape {list(trace.shape)}.")
    values = trace.double()
    centred = values - values.mean(dim=-1, keepdim=True)
    ratio = values.diff(dim=-1).square().sum(dim=-1) / centred.square().sum(dim=-1)
    return torch.where(_constant(trace), math.nan, ratio)


def distinct_values(trace: Tensor, rounding: float = 0.0) -> int:
    """How many different values a trace [M] takes, up to 1e-9 of its range and `rounding_of` its size.

    Below 10, an autocorrelation describes steps, not noise (a zero-bias ReLU network of a scalar has 2).
    `rounding` is a larger one, where values have been computed in less precision than they are stored in.
    """
    values = trace.double().sort().values
    apart = max(1e-9 * float(values[-1] - values[0]), float(rounding_of(trace)), rounding)
    return int((values.diff() > apart).sum()) + 1


def vector_autocorrelation(traces: Tensor, lags: int) -> Tensor:
    """Autocorrelation of evenly spaced vectors at lags 0..lags, mean vector removed.

    Mean of inner products instead of products: r_k = sum_{i <= M-k} <z_i, z_{i+k}> / sum_i |z_i|^2 with
    z = g - mean(g), biased as `autocorrelation`, which it is for vectors of one number.

    Args:
        traces: One vector a point of an even grid, shape [M, D].
        lags: Largest lag, below M.

    Returns:
        Shape [lags + 1], dimensionless, in [-1, 1], float64; r_0 = 1. NaN where all vectors are equal but for rounding.

    Raises:
        ValueError: Not a matrix, fewer than two vectors, or a lag that the trace is too short for.
    """
    if traces.ndim != 2 or len(traces) < 2 or not 0 <= lags < len(traces):
        raise ValueError(
            f"vector_autocorrelation at lags 0..{lags} needs vectors [M, D] with M > {max(lags, 1)}, got "
            f"{list(traces.shape)}. Flatten with .flatten(start_dim=1)."
        )
    centred = traces.double() - traces.double().mean(dim=0)
    # One entry for each pair of points costs less than a pass over all coordinates for each lag.
    gram = centred @ centred.T
    sums = torch.stack([gram.diagonal(offset=lag).sum() for lag in range(lags + 1)])
    lengths = torch.linalg.vector_norm(traces.double(), dim=1)
    apart = torch.linalg.vector_norm(traces.double() - traces[0].double(), dim=1).amax()
    constant = bool(apart <= rounding_of(lengths.to(traces.dtype)))
    return torch.full_like(sums, math.nan) if constant else sums / sums[0]


class LjungBox(NamedTuple):
    """The statistic Q and its p-value under white noise."""

    statistic: Tensor
    p_value: Tensor


def ljung_box(trace: Tensor, lags: int) -> LjungBox:
    """Are the autocorrelations at lags 1..lags together larger than white noise would have them?

    Q = M (M + 2) sum_k r_k^2 / (M - k) has a chi-square distribution with `lags` degrees of freedom if the values
    are independent, M being large against `lags`. A large p-value means white at this spacing, not at any.

    Args:
        trace: Values on an even grid, shape [..., M].
        lags: h, from 1 to M - 1.

    Returns:
        Q >= 0 and the probability that white noise has a larger one, each of shape [...], dimensionless, float64.
        NaN for a trace without variance.

    Raises:
        ValueError: As `autocorrelation`, or no lag.

    Source:
        Ljung and Box (1978), On a measure of lack of fit in time series models.
    """
    if lags < 1:
        raise ValueError(f"ljung_box sums over lags 1..h and needs h >= 1, got {lags}.")
    points = trace.shape[-1] if trace.ndim else 0
    squares = autocorrelation(trace, lags)[..., 1:].square()
    left = points - torch.arange(1, lags + 1, dtype=squares.dtype, device=squares.device)
    statistic = points * (points + 2) * (squares / left).sum(dim=-1)
    half = torch.full_like(statistic, lags / 2)
    p_value = torch.special.gammaincc(half, statistic.nan_to_num() / 2)
    return LjungBox(statistic, torch.where(statistic.isnan(), math.nan, p_value))


def half_lag(autocorrelation: Tensor) -> float:
    """The lag, straight between whole ones, at which an autocorrelation first falls to 1/2.

    Below 1, the grid is too coarse to tell: neighbours are nearly unrelated already, and the straight line from
    r_0 = 1 is a bound, not a measurement.

    Args:
        autocorrelation: r_0 = 1, r_1, ..., shape [K + 1].

    Returns:
        In grid steps; NaN if it stays above 1/2 at all lags, or is undefined.
    """
    values = autocorrelation.double()
    below = (values <= 0.5).nonzero()
    if len(below) == 0 or bool(values.isnan().any()):
        return math.nan
    lag = int(below[0])
    if lag == 0:
        raise ValueError(f"half_lag starts at lag 0, where an autocorrelation is 1; got {float(values[0])}.")
    before, after = float(values[lag - 1]), float(values[lag])
    return lag - 1 + (before - 0.5) / (before - after)
