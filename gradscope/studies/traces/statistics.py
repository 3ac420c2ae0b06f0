"""What a trace along an even path is like, as result rows, and what noise of its length would be like."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gradscope.measures.trace import (
    autocorrelation,
    distinct_values,
    half_lag,
    ljung_box,
    rounding_of,
    spectral_slope,
    vector_autocorrelation,
    von_neumann_ratio,
)

LAGS = 15
FEWEST_VALUES = 10
FEW = f"fewer than {FEWEST_VALUES} distinct values: steps, not noise"
CONSTANT = "the trace has no variance beyond rounding"
NOT_FINITE = "the trace is not finite"
NOISE_DRAWS = 1000

_NONE: dict[str, Any] = {"lag": math.nan, "distance": math.nan, "low": math.nan, "high": math.nan}


def without_rounding(trace: Tensor, rounding: float) -> Tensor:
    """The trace itself, or one of equal values where its own differ by no more than `rounding`."""
    return trace[:1].expand(len(trace)) if float(trace.amax() - trace.amin()) <= rounding else trace


def statistic_rows(
    trace: Tensor, spacing: float, lags: int = LAGS, rounding: float = 0.0
) -> list[dict[str, Any]]:
    """Autocorrelation by lag, correlation distance, spectral slope, von Neumann ratio, Ljung-Box, distinct values.

    Args:
        trace: Values on an even path, [M], M >= 8.
        spacing: Distance of neighbours, in units of the input.
        lags: Largest lag, and degrees of freedom of the Ljung-Box test; from 1 to M - 1.
        rounding: Of the values, where they were computed in less precision than `trace` has.

    Returns:
        Rows of `quantity`, `unit`, `lag`, `distance`, `value`, `low`, `high`, `n` (points), `status`, `reason`.
    """
    values = without_rounding(trace.double(), max(rounding, float(rounding_of(trace))))
    finite = bool(torch.isfinite(values).all())
    few = distinct_values(values, rounding) if finite else 0
    reason = NOT_FINITE if not finite else CONSTANT if few == 1 else FEW if few < FEWEST_VALUES else ""
    if not finite:
        values = torch.full_like(values, math.nan)
    every = _far_enough(values, lags, autocorrelation)
    box = ljung_box(values, lags)
    rows = _autocorrelation_rows(every, spacing, lags)
    rows += [
        {"quantity": "spectral_slope", "value": float(spectral_slope(values))},
        {"quantity": "von_neumann_ratio", "value": float(von_neumann_ratio(values))},
        {"quantity": "ljung_box", "lag": lags, "distance": lags * spacing, "value": float(box.statistic)},
        {
            "quantity": "ljung_box_p_value",
            "lag": lags,
            "distance": lags * spacing,
            "value": float(box.p_value),
        },
        {"quantity": "distinct_values", "value": float(few) if finite else math.nan, "unit": "values"},
    ]
    return [_finished(row, reason, len(values)) for row in rows]


def vector_statistic_rows(traces: Tensor, spacing: float, lags: int = LAGS) -> list[dict[str, Any]]:
    """Autocorrelation by lag, of inner products, and correlation distance, of vectors [M, D] as they were computed."""
    finite = bool(torch.isfinite(traces).all())
    every = _far_enough(traces, lags, vector_autocorrelation)
    reason = NOT_FINITE if not finite else CONSTANT if bool(every.isnan().any()) else ""
    return [_finished(row, reason, len(traces)) for row in _autocorrelation_rows(every, spacing, lags)]


def _far_enough(trace: Tensor, lags: int, measure: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Autocorrelation up to `lags`, or to half of the trace where it has not fallen to 1/2 by then."""
    every = measure(trace, lags)
    return measure(trace, max(lags, len(trace) // 2)) if bool((every > 0.5).all()) else every


def _autocorrelation_rows(every: Tensor, spacing: float, lags: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"quantity": "autocorrelation", "lag": lag, "distance": lag * spacing, "value": value}
        for lag, value in enumerate(every[: lags + 1].tolist())
    ]
    distance: dict[str, Any] = {"quantity": "correlation_distance", "unit": "input", "value": math.nan}
    lag = half_lag(every)
    if lag >= 1:
        distance["value"] = lag * spacing
    elif not math.isnan(lag):
        distance |= {"low": 0.0, "high": spacing}
        distance["reason"] = (
            f"not resolved: the autocorrelation of neighbours is {float(every[1]):.2f}, at distance {spacing:.3g}"
        )
    elif not bool(every.isnan().any()):
        reached = (len(every) - 1) * spacing
        distance |= {
            "low": reached,
            "reason": f"the autocorrelation stays above 1/2 up to distance {reached:.3g}",
        }
    return [*rows, distance]


def told(value: float) -> dict[str, Any]:
    """A value of a trace with its status and reason."""
    known = math.isfinite(value)
    return {"value": value, "status": "ok" if known else "undefined", "reason": "" if known else "not finite"}


def _finished(row: dict[str, Any], reason: str, points: int) -> dict[str, Any]:
    status = "ok" if math.isfinite(row["value"]) else "undefined"
    return {"unit": "1", **_NONE, "n": points, "status": status, "reason": reason} | row


def reference_rows(points: int, spacing: float, lags: int = LAGS) -> list[dict[str, Any]]:
    """What white and brown noise on as many points give: the mean, and where 95 % of single traces lie.

    Brown noise is the running sum of white noise. From 1000 traces of each, drawn with a seed of their own.

    Returns:
        Rows of quantity `reference`, with columns `noise` and `statistic`, and those of `statistic_rows`.
    """
    rows = []
    for noise, statistic, lag, value, low, high in _noise(points, lags):
        row = {"quantity": "reference", "unit": "1", "noise": noise, "statistic": statistic, "value": value}
        place = {"lag": lag, "distance": lag * spacing, "low": low, "high": high}
        rows.append(row | place | {"n": NOISE_DRAWS, "status": "ok", "reason": ""})
    return rows


Band = tuple[str, str, float, float, float, float]


@lru_cache(maxsize=32)
def _noise(points: int, lags: int) -> tuple[Band, ...]:
    """Noise, statistic, lag, mean, 2.5 % and 97.5 % quantile."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(NOISE_DRAWS, points, dtype=torch.float64, generator=generator)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    single: dict[str, Callable[[Tensor], Tensor]] = {
        "spectral_slope": spectral_slope,
        "von_neumann_ratio": von_neumann_ratio,
    }
    found: list[Band] = []
    for noise, traces in (("white noise", white), ("brown noise", white.cumsum(dim=1))):
        curves = autocorrelation(traces, lags)
        low, high = torch.quantile(curves, ends, dim=0).tolist()
        for lag, mean in enumerate(curves.mean(dim=0).tolist()):
            found.append((noise, "autocorrelation", lag, mean, low[lag], high[lag]))
        for statistic, measure in single.items():
            values = measure(traces)
            least, most = torch.quantile(values, ends).tolist()
            found.append((noise, statistic, math.nan, float(values.mean()), least, most))
    return tuple(found)
