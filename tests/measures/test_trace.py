"""Autocorrelation and spectra of traces against loops and against noises of known colour."""

import math

import numpy as np
import pytest
import torch

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


def noise(draws: int = 1, points: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(draws, points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_autocorrelation(values: np.ndarray, lag: int) -> float:
    mean, total, square = sum(values) / len(values), 0.0, 0.0
    for i in range(len(values)):
        square += (values[i] - mean) ** 2
        for j in range(len(values)):
            if j - i == lag:
                total += (values[i] - mean) * (values[j] - mean)
    return total / square


def test_autocorrelation_is_the_double_loop():
    trace = noise(points=23)[0].cumsum(0)
    result = autocorrelation(trace, 22)
    expected = [slow_autocorrelation(trace.numpy(), lag) for lag in range(23)]
    assert result.tolist() == pytest.approx(expected, abs=1e-13)
    assert result[0] == 1 and float(result.sum()) == pytest.approx(0.5, abs=1e-12)


def test_traces_are_taken_one_by_one():
    traces = noise(6, 20).view(2, 3, 20)
    together = autocorrelation(traces, 4)
    assert together.shape == (2, 3, 5)
    torch.testing.assert_close(together[1, 2], autocorrelation(traces[1, 2], 4))
    torch.testing.assert_close(spectral_slope(traces)[1, 2], spectral_slope(traces[1, 2]))
    torch.testing.assert_close(von_neumann_ratio(traces)[1, 2], von_neumann_ratio(traces[1, 2]))


def test_white_noise_has_no_memory():
    result = autocorrelation(noise(200), 15)
    assert result[:, 1:].mean().abs() < 0.01
    assert float(result[:, 1].std()) == pytest.approx(1 / 16, rel=0.15)


@pytest.mark.parametrize(("cumulate", "slope", "ratio"), [(False, 0.0, 2.0), (True, -2.0, 0.04)])
def test_slope_and_von_neumann_ratio_tell_white_from_brown(cumulate, slope, ratio):
    """Means over 400 traces; one trace scatters by 0.23 about its slope."""
    traces = noise(400).cumsum(-1) if cumulate else noise(400)
    assert float(spectral_slope(traces).mean()) == pytest.approx(slope, abs=0.05)
    assert float(spectral_slope(traces).std()) == pytest.approx(0.23, abs=0.05)
    assert float(von_neumann_ratio(traces).mean()) == pytest.approx(ratio, abs=0.02)


def test_slope_is_least_squares_on_the_windowed_periodogram():
    trace = noise(points=64)[0].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    power = [
        abs(sum((trace - trace.mean()) * window * np.exp(-2j * np.pi * k * np.arange(64) / 64))) ** 2
        for k in range(1, 17)
    ]
    expected = np.polyfit(np.log(np.arange(1, 17)), np.log(power), 1)[0]
    assert float(spectral_slope(torch.from_numpy(trace))) == pytest.approx(expected, abs=1e-10)


def test_von_neumann_ratio_is_steps_over_deviations():
    trace = torch.tensor([1.0, 3.0, 2.0, 2.0])
    assert float(von_neumann_ratio(trace)) == pytest.approx((4 + 1 + 0) / (1 + 1 + 0 + 0))
    alternating = torch.tensor([1.0, -1.0]).repeat(500)
    assert float(von_neumann_ratio(alternating)) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("function", [lambda t: autocorrelation(t, 3), spectral_slope, von_neumann_ratio])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_does_not_matter(function, scale):
    trace = noise()[0]
    torch.testing.assert_close(function(trace * scale), function(trace), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-20, 1 / 3])
def test_equal_values_have_no_correlation(value):
    trace = torch.full((50,), value, dtype=torch.float64)
    assert autocorrelation(trace, 3).isnan().all()
    assert math.isnan(spectral_slope(trace)) and math.isnan(von_neumann_ratio(trace))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-20, 0.3, 1e20])
def test_the_rounding_of_a_constant_is_no_trace(dtype, size):
    rounding = torch.finfo(dtype).eps * torch.randn(200, generator=torch.Generator().manual_seed(0))
    constant = (size * (1 + rounding.double())).to(dtype)
    assert len(set(constant.tolist())) > 3
    assert autocorrelation(constant, 3).isnan().all() and ljung_box(constant, 3).statistic.isnan()
    assert math.isnan(spectral_slope(constant)) and math.isnan(von_neumann_ratio(constant))
    assert distinct_values(constant) == 1
    assert vector_autocorrelation(torch.stack([constant, -constant], dim=1), 3).isnan().all()
    varying = (size * (1 + 1e4 * rounding.double())).to(dtype)
    assert autocorrelation(varying, 3).isfinite().all()
    steps = constant * torch.tensor([1.0, -1.0], dtype=dtype).repeat(100)
    assert distinct_values(steps) == 2
    assert distinct_values(steps.double(), float(rounding_of(steps))) == 2


def test_few_values_are_counted():
    assert distinct_values(torch.tensor([2.0, 2.0, 2.0])) == 1
    assert distinct_values(torch.tensor([1.0, -1.0, 1.0 + 1e-12, -1.0])) == 2
    assert distinct_values(noise()[0]) == 256


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: autocorrelation(torch.ones(4), 4), "more than 4 values, got 4"),
        (lambda: autocorrelation(torch.ones(4), -1), "lags 0..-1 needs"),
        (lambda: autocorrelation(torch.tensor(1.0), 0), "more than 1 values, got 0"),
        (lambda: spectral_slope(torch.ones(7)), "at least 8 values .* got 7"),
        (lambda: von_neumann_ratio(torch.ones(1)), r"at least 2 values, got shape \[1\]"),
    ],
)
def test_short_traces_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def slow_ljung_box(values: np.ndarray, lags: int) -> float:
    total = 0.0
    for lag in range(1, lags + 1):
        total += slow_autocorrelation(values, lag) ** 2 / (len(values) - lag)
    return len(values) * (len(values) + 2) * total


def test_ljung_box_is_the_sum_over_lags_with_the_chi_square_tail():
    from scipy.stats import chi2

    trace = noise(points=40)[0]
    statistic, p_value = ljung_box(trace, 6)
    expected = slow_ljung_box(trace.numpy(), 6)
    assert float(statistic) == pytest.approx(expected, rel=1e-12)
    assert float(p_value) == pytest.approx(chi2.sf(expected, 6), rel=1e-10)


def test_white_noise_is_rejected_as_often_as_the_level_says_and_brown_noise_always():
    white = ljung_box(noise(2000), 15).p_value
    assert float((white < 0.05).double().mean()) == pytest.approx(0.05, abs=0.02)
    assert float(ljung_box(noise(200).cumsum(-1), 15).p_value.max()) < 1e-10


def test_ljung_box_of_equal_values_is_undefined():
    assert all(part.isnan() for part in ljung_box(torch.ones(30), 3))
    together = ljung_box(torch.stack([torch.ones(30).double(), noise(points=30)[0]]), 3)
    assert together.p_value.isnan().tolist() == [True, False]


def test_autocorrelation_of_vectors_is_the_double_loop_over_inner_products():
    vectors = noise(17, 4, seed=3).cumsum(0).numpy()
    z = vectors - vectors.mean(axis=0)
    expected = []
    for lag in range(6):
        products = [sum(z[i][d] * z[i + lag][d] for d in range(4)) for i in range(17 - lag)]
        expected.append(sum(products) / sum(sum(row**2) for row in z))
    assert vector_autocorrelation(torch.from_numpy(vectors), 5).tolist() == pytest.approx(expected, abs=1e-13)


def test_vectors_of_one_number_have_the_autocorrelation_of_their_trace():
    trace = noise()[0].cumsum(0)
    torch.testing.assert_close(vector_autocorrelation(trace[:, None], 15), autocorrelation(trace, 15))
    tiny = 1e-30 * trace[:, None]
    torch.testing.assert_close(vector_autocorrelation(tiny, 15), autocorrelation(trace, 15))
    assert vector_autocorrelation(torch.full((9, 3), 0.1), 2).isnan().all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.9, 0.6, 0.2], 2.25),
        ([1.0, 0.5, 0.1], 1.0),
        ([1.0, 0.0], 0.5),
        ([1.0, 0.9, 0.8], math.nan),
        ([math.nan, math.nan], math.nan),
    ],
)
def test_half_lag_lies_straight_between_whole_lags(values, expected):
    assert half_lag(torch.tensor(values)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ljung_box(torch.ones(4), 0), "h >= 1, got 0"),
        (lambda: ljung_box(torch.ones(4), 4), "more than 4 values"),
        (lambda: vector_autocorrelation(torch.ones(4), 1), r"vectors \[M, D\] with M > 1, got \[4\]"),
        (lambda: vector_autocorrelation(torch.ones(4, 2), 4), r"M > 4, got \[4, 2\]"),
        (lambda: half_lag(torch.tensor([0.2, 0.1])), "starts at lag 0"),
    ],
)
def test_what_has_no_answer_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
