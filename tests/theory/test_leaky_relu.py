"""Leaky rectifiers against Gaussian samples and networks."""

import math

import numpy as np
import pytest

from gradscope.theory import leaky_relu_correlation, plain_correlation, residual_correlation


@pytest.mark.parametrize("slope", [0.01, 0.25, 0.7])
def test_one_layer_is_the_moments_of_gaussian_pairs(slope):
    rng = np.random.default_rng(0)
    u, w = rng.standard_normal((2, 1_000_000))
    v = 0.4 * u + math.sqrt(1 - 0.16) * w
    fu, fv = (np.where(x > 0, x, slope * x) for x in (u, v))
    du, dv = (np.where(x > 0, 1.0, slope) for x in (u, v))
    found = leaky_relu_correlation(2, slope, 0.4)
    assert found.gradient_correlation[0] == pytest.approx((du * dv).mean() / (du * du).mean(), abs=6e-3)
    assert found.input_correlation[1] == pytest.approx((fu * fv).mean() / (fu * fu).mean(), abs=6e-3)


def test_it_lies_between_relu_and_linear():
    relu = plain_correlation(20).gradient_correlation
    np.testing.assert_allclose(leaky_relu_correlation(20, 0.0).gradient_correlation, relu, rtol=1e-12)
    np.testing.assert_allclose(leaky_relu_correlation(20, 1.0, 0.3).gradient_correlation, 1)
    found = [leaky_relu_correlation(20, s).gradient_correlation[-1] for s in (0, 0.01, 0.25, 0.5, 1)]
    assert found == sorted(found)
    np.testing.assert_allclose(leaky_relu_correlation(20, 0.25).gradient_variance, 1, rtol=1e-12)


def test_networks_follow_the_law():
    """Slope 0.25, weights of variance 2 / (1 + s^2) over fan-in, N = 512, 6 seeds of 8 inputs, L = 8."""
    cosines, sizes = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        h, layers = np.linalg.qr(rng.standard_normal((512, 8)))[0] * math.sqrt(512), []
        for _ in range(8):
            W = rng.standard_normal((512, 512)) * math.sqrt(2 / (1 + 0.25**2) / 512)
            layers.append((W, np.where(h > 0, 1.0, 0.25)))
            h = W @ np.where(h > 0, h, 0.25 * h)
        g = np.repeat(rng.standard_normal((512, 1)), 8, axis=1)
        start = np.square(g).mean()
        for W, slope in layers[::-1]:
            g = slope * (W.T @ g)
        sizes.append(np.square(g).mean() / start)
        g = g / np.linalg.norm(g, axis=0)
        cosines.append((g.T @ g)[np.triu_indices(8, 1)].mean())
    law = leaky_relu_correlation(8, 0.25)
    assert np.mean(cosines) == pytest.approx(law.gradient_correlation[-1], abs=0.03)
    assert np.mean(sizes) == pytest.approx(1, abs=0.2)


def test_two_layers_in_a_branch_follow_the_recursion_by_hand():
    """And twice as many ReLUs in plain nets, the skip closed, are twice as many layers."""
    found = residual_correlation(3, 0.0, 1.0, 0.2, branch_layers=2)
    plain = plain_correlation(6, 0.2)
    np.testing.assert_allclose(found.gradient_correlation, plain.gradient_correlation[1::2], rtol=1e-12)
    np.testing.assert_allclose(found.input_correlation, plain.input_correlation[::2], rtol=1e-12)


@pytest.mark.parametrize(
    ("slope", "message"), [(-0.1, "negative_slope must be at least 0"), (1.5, "from ReLU to linear")]
)
def test_slopes_outside_their_range_are_named(slope, message):
    with pytest.raises(ValueError, match=message):
        leaky_relu_correlation(3, slope)
