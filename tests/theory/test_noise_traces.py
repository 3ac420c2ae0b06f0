"""White and brown noise: exact expectations against draws, and statistics against those of measured traces."""

import numpy as np
import pytest
import torch

from gradscope.measures.trace import autocorrelation, spectral_slope, von_neumann_ratio
from gradscope.theory import (
    expected_von_neumann_ratio,
    noise_autocorrelation,
    noise_band,
    noise_covariance,
    noise_traces,
    plain_derivative_process,
)


def test_bands_hold_the_printed_means_and_deviations():
    """256 points: mean (standard deviation) of single traces' autocorrelations, slopes and ratios."""
    brown = noise_band("brown", 256, [1, 5, 15], 4000)
    np.testing.assert_allclose(brown.mean, [0.971, 0.862, 0.629], atol=0.01)
    white = noise_band("white", 256, [1, 5, 15], 4000)
    np.testing.assert_allclose(white.mean, [-0.004, -0.003, -0.004], atol=0.004)
    np.testing.assert_allclose((white.high - white.low) / 3.92, 0.06, atol=0.005)
    for kind, slope in (("white", 0.01), ("brown", -1.98)):
        band = noise_band(kind, 256, draws=4000, quantity="spectral_slope")
        assert band.mean == pytest.approx(slope, abs=0.03)
        assert (band.high - band.low) / 3.92 == pytest.approx(0.23, abs=0.02)
    assert noise_band("white", 256, quantity="von_neumann_ratio").mean == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("kind", ["white", "brown"])
def test_statistics_are_those_of_the_measures(kind):
    traces = torch.from_numpy(noise_traces(kind, 40, 100, 3))
    expected = {
        "autocorrelation": autocorrelation(traces, 7)[:, [2, 7]],
        "spectral_slope": spectral_slope(traces),
        "von_neumann_ratio": von_neumann_ratio(traces),
    }
    for quantity, values in expected.items():
        lags = [2, 7] if quantity == "autocorrelation" else ()
        band = noise_band(kind, 40, lags, 100, quantity=quantity, seed=3)
        np.testing.assert_allclose(band.mean, values.mean(dim=0), rtol=1e-9)
        quantiles = np.quantile(values.numpy(), [0.025, 0.975], axis=0)
        np.testing.assert_allclose([band.low, band.high], quantiles, rtol=1e-9)


def test_expectations_are_ratios_of_sums_over_draws():
    for kind in ("white", "brown"):
        traces = noise_traces(kind, 64, 20_000, 0)
        np.testing.assert_allclose(np.cov(traces.T, bias=True), noise_covariance(kind, 64), atol=0.05)
        z = traces - traces.mean(axis=1, keepdims=True)
        total = np.square(z).sum()
        found = [(z[:, :-k] * z[:, k:]).sum() / total for k in (1, 5, 15)]
        np.testing.assert_allclose(noise_autocorrelation(kind, 64, [1, 5, 15]), found, atol=0.01)
        steps = np.square(np.diff(traces, axis=1)).sum() / total
        assert expected_von_neumann_ratio(noise_covariance(kind, 64)) == pytest.approx(steps, rel=0.02)


def test_closed_forms():
    lags = np.arange(1, 50)
    np.testing.assert_allclose(noise_autocorrelation("white", 50, lags), -(50 - lags) / 50 / 49)
    assert expected_von_neumann_ratio(noise_covariance("white", 50)) == pytest.approx(2.0)
    assert expected_von_neumann_ratio(noise_covariance("brown", 50)) == pytest.approx(6 / 51)


def test_deep_plain_nets_go_from_brown_to_white():
    grid = np.linspace(-2, 2, 256)
    ratios = [expected_von_neumann_ratio(plain_derivative_process(grid, L).derivative) for L in (4, 10, 24)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.2
    assert ratios[2] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: noise_covariance("pink", 8), ValueError, "'pink'"),
        (lambda: noise_traces("pink", 8, 3, 0), ValueError, "'pink'"),
        (lambda: noise_traces("white", 1, 3, 0), ValueError, "points is a whole number"),
        (lambda: noise_autocorrelation("white", 8, 8), ValueError, r"whole numbers in 0\.\.7"),
        (lambda: noise_band("white", 8), ValueError, "at least one"),
        (lambda: noise_band("white", 8, [8]), ValueError, r"whole numbers in 0\.\.7"),
        (lambda: noise_band("white", 8, [1], 10), ValueError, "draws is a whole number of at least 100"),
        (lambda: noise_band("white", 8, [1], quantity="spectral_slope"), ValueError, "takes none"),
        (lambda: noise_band("white", 4, quantity="spectral_slope"), ValueError, "at least 8 points"),
        (lambda: noise_band("white", 8, quantity="power"), ValueError, "'power'"),
        (lambda: expected_von_neumann_ratio([[1.0]]), ValueError, "two points"),
        (lambda: expected_von_neumann_ratio(np.ones((3, 3))), FloatingPointError, "constant over the grid"),
    ],
)
def test_arguments_outside_their_range_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
