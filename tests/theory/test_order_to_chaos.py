"""Phases against the recursion's own fixed points, closed forms, and a network."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    activation_correlation,
    critical_line,
    critical_weight_variance,
    order_to_chaos,
)


@pytest.mark.parametrize(
    ("activation", "weights", "biases", "name"),
    [
        ("tanh", 1.3, 0.3, "ordered"),
        ("tanh", 2.5, 0.05, "chaotic"),
        ("erf", 2.5, 0.1, "chaotic"),
        ("silu", 1.9, 0.1, "ordered"),
    ],
)
def test_fixed_points_and_depth_scales_are_where_the_recursion_goes(activation, weights, biases, name):
    phase = order_to_chaos(activation, weight_variance=weights, bias_variance=biases)
    assert (phase.name, phase.reason) == (name, "")
    # From the fixed point of the variance, so that what is left is the correlation's own approach.
    options = {"weight_variance": weights, "bias_variance": biases, "variance": phase.variance}
    found = activation_correlation(12, activation, rho=min(phase.correlation + 0.05, 0.98), **options)
    np.testing.assert_allclose(np.diff(found.log_gradient_variance), math.log(phase.chi_1), atol=1e-8)
    assert phase.gradient_depth == pytest.approx(1 / abs(math.log(phase.chi_1)))
    gap = np.abs(found.input_correlation - phase.correlation)
    assert gap[11] < gap[0]
    # Differences shrink by exp(-1 / xi_c) a layer, up to terms of the order of the difference.
    assert math.log(gap[10] / gap[11]) == pytest.approx(1 / phase.correlation_depth, rel=0.1)


def test_variance_flows_to_its_fixed_point():
    phase = order_to_chaos("tanh", weight_variance=2.0, bias_variance=0.05, variance=9.0)
    q = 9.0
    z = np.random.default_rng(0).standard_normal(400_000)
    for _ in range(60):
        q = 2.0 * np.square(np.tanh(math.sqrt(q) * z)).mean() + 0.05
    assert phase.variance == pytest.approx(q, rel=0.01)


def test_a_network_ends_at_the_fixed_points():
    """tanh, w = 2.5, b = 0.05, N = 512, 16 inputs, 40 layers deep."""
    phase = order_to_chaos("tanh", weight_variance=2.5, bias_variance=0.05)
    squares, cosines = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        h = rng.standard_normal((512, 16))
        for _ in range(40):
            W = rng.standard_normal((512, 512)) * math.sqrt(2.5 / 512)
            h = W @ np.tanh(h) + math.sqrt(0.05) * rng.standard_normal((512, 1))
        squares.append(np.square(h).mean())
        h = h / np.linalg.norm(h, axis=0)
        cosines.append((h.T @ h)[np.triu_indices(16, 1)].mean())
    assert np.mean(squares) == pytest.approx(phase.variance, rel=0.05)
    assert np.mean(cosines) == pytest.approx(phase.correlation, abs=0.06)


def test_phases_of_tanh_without_biases():
    critical = order_to_chaos("tanh", weight_variance=1.0)
    assert critical.name == "critical"
    assert (critical.correlation_depth, critical.gradient_depth) == (math.inf, math.inf)
    vanishing = order_to_chaos("tanh", weight_variance=0.9)
    assert (vanishing.name, vanishing.variance) == ("ordered", 0.0)
    assert math.isnan(vanishing.correlation)
    assert "signals vanish" in vanishing.reason
    assert vanishing.gradient_depth == pytest.approx(-1 / math.log(0.9))
    chaotic = order_to_chaos("tanh", weight_variance=1.5)
    assert (chaotic.name, chaotic.correlation) == ("chaotic", 0.0)


def test_critical_line_of_tanh():
    weights, (z, step) = (
        critical_weight_variance("tanh", bias_variance=0.05),
        np.linspace(-9, 9, 20_001, retstep=True),
    )
    density, q = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * step, 1.0
    for _ in range(500):
        q = weights * density @ np.tanh(math.sqrt(q) * z) ** 2 + 0.05
    assert weights * density @ (1 - np.tanh(math.sqrt(q) * z) ** 2) ** 2 == pytest.approx(1, abs=1e-8)
    assert weights == pytest.approx(1.76, abs=0.005)
    assert critical_weight_variance("tanh", bias_variance=0.0) == pytest.approx(1.0)
    assert critical_weight_variance("erf", bias_variance=0.0) == pytest.approx(math.pi / 4)
    weights, biases = critical_line([0.0, 0.3, 2.0], "tanh")
    assert (weights[0], biases[0]) == pytest.approx((1.0, 0.0))
    for q, w, b in zip([0.3, 2.0], weights[1:], biases[1:], strict=True):
        assert critical_weight_variance("tanh", bias_variance=b) == pytest.approx(w, rel=1e-6)
        phase = order_to_chaos("tanh", weight_variance=w, bias_variance=b)
        assert (phase.name, phase.variance) == ("critical", pytest.approx(q, rel=1e-5))


def test_an_activation_flat_at_zero_lets_no_gradient_through_once_signals_vanish():
    phase = order_to_chaos(np.square, lambda x: 2 * x, weight_variance=0.1)
    assert (phase.name, phase.variance, phase.chi_1, phase.gradient_depth) == ("ordered", 0.0, 0.0, 0.0)


def test_critical_line_of_erf_in_closed_form():
    """E[erf(u)^2] and E[erf'(u)^2] are known (Williams 1996)."""
    q = np.array([0.2, 1.0, 3.0])
    gain = 4 / math.pi / np.sqrt(1 + 4 * q)
    weights, biases = critical_line(q, "erf")
    np.testing.assert_allclose(weights, 1 / gain, rtol=1e-9)
    np.testing.assert_allclose(biases, q - 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)) / gain, rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: order_to_chaos("relu", weight_variance=2), ValueError, "Use the closed forms"),
        (lambda: order_to_chaos("tanh", weight_variance=0), ValueError, "weight_variance must be above 0"),
        (
            lambda: order_to_chaos("tanh", weight_variance=1, bias_variance=-1),
            ValueError,
            "bias_variance must be at least 0",
        ),
        (lambda: order_to_chaos("silu", weight_variance=3.0), FloatingPointError, "without a fixed point"),
        (lambda: critical_line([-1.0], "tanh"), ValueError, "variance must be at least 0"),
        (
            lambda: critical_line([0.0], np.square, lambda x: 2 * x),
            ValueError,
            "nothing is critical",
        ),
    ],
)
def test_arguments_outside_their_range_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
