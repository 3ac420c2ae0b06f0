"""The inverse cube, its asymptotes and its slope; highway nets without centring."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    asymptotic_correlation_gap,
    asymptotic_layer_factor,
    highway,
    highway_uncentred,
    highway_uncentred_limit,
    k0,
    local_exponent,
    plain_centred,
    plain_correlation,
    residual_batch_norm,
    residual_correlation,
)
from tests.theory.simulated import correlation_R, input_gradients, relu_network


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.5)])
def test_recursions_reach_their_asymptotes(alpha, beta):
    depth = 10_000
    profile = residual_correlation(depth, alpha, beta)
    gap = 1 - profile.input_correlation[[depth // 2 - 1, depth - 1]]
    np.testing.assert_allclose(gap, asymptotic_correlation_gap([depth // 2, depth], alpha, beta), rtol=0.02)
    R = profile.gradient_correlation
    drop = 1 - R[-1] / R[-2]
    assert drop == pytest.approx(1 - asymptotic_layer_factor(depth), rel=0.01)
    slope = local_exponent([depth // 2, depth], R[[depth // 2 - 1, depth - 1]])
    assert slope[0] == pytest.approx(-3, abs=0.02)


def test_the_printed_constant():
    assert asymptotic_correlation_gap(1)[()] == pytest.approx(44.4, abs=0.05)
    measured = (1 - plain_correlation(20_000).input_correlation[-1]) * 20_000**2
    assert measured == pytest.approx(44.3, abs=0.06)


def test_correlation_of_gradients_is_the_derivative_of_that_of_activations():
    """R_L = d rho_{L+1} / d rho_1, since k0 = k1'."""
    for skip in (0.0, 1.0):
        step = 1e-6
        up, down = (residual_correlation(31, skip, 1.0, 0.1 + s).input_correlation for s in (step, -step))
        slope = (up[1:] - down[1:]) / (2 * step)
        R = residual_correlation(30, skip, 1.0, 0.1).gradient_correlation
        np.testing.assert_allclose(R, slope, rtol=1e-5)


def test_local_exponents_of_known_laws():
    depth = np.array([1, 2, 5, 30])
    np.testing.assert_allclose(local_exponent(depth, 7.0 * depth**-1.5), -1.5)
    exponential = local_exponent([100, 101], plain_centred([100, 101]))
    assert exponential[0] == pytest.approx(-math.log(2) * 100.5, rel=1e-3)
    far = local_exponent([10**5, 2 * 10**5], residual_batch_norm([10**5, 2 * 10**5], 1.0))
    assert far[0] == pytest.approx(-0.733, abs=1e-3)


def test_uncentred_highway_and_its_limit():
    assert highway_uncentred(1000) == pytest.approx(0.634, abs=1e-3)
    assert highway_uncentred_limit() == pytest.approx(float(highway_uncentred(2000)), abs=5e-4)
    for rho in (-0.9, 0.5, 0.99):
        assert highway_uncentred_limit(rho) == pytest.approx(float(highway_uncentred(500, rho)), abs=2e-3)
    assert highway_uncentred_limit(1.0) == 1
    np.testing.assert_allclose(highway_uncentred([[1, 7]], 1.0), 1)
    assert highway_uncentred(1) == pytest.approx(float(k0(0.0)))
    assert (highway_uncentred([2, 20, 200]) > highway([2, 20, 200])).all()


def test_uncentred_highway_networks():
    """N = 384, L = 20, orthogonal inputs; centred, R would be 0.603."""
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        inputs = np.linalg.qr(rng.standard_normal((384, 64)))[0] * math.sqrt(384)
        layers = relu_network(inputs, 20, rng, alpha=math.sqrt(0.95), beta=math.sqrt(0.05))
        found.append(correlation_R(input_gradients(layers, rng)))
    assert np.mean(found) == pytest.approx(float(highway_uncentred(20)), abs=0.012)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asymptotic_correlation_gap(3, beta=0), "beta must be above 0"),
        (lambda: asymptotic_layer_factor(0), "depth counts layers"),
        (lambda: local_exponent([1], [1.0]), "at least two rising depths"),
        (lambda: local_exponent([2, 1], [1.0, 2.0]), "at least two rising depths"),
        (lambda: local_exponent([1, 2], [1.0, 0.0]), "positive, finite values"),
        (lambda: highway_uncentred(0), "depth counts layers"),
        (lambda: highway_uncentred_limit(2), "rho is a correlation"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
