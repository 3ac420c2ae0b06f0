"""The uncentred recursions against printed values, their asymptotics, and simulated networks."""

import math

import numpy as np
import pytest

from gradscope.theory import coactivation, plain_correlation, residual_correlation

# depth: (plain, residual beta = 1), from orthogonal inputs, with the unit of the last printed digit
PRINTED = {
    1: ((0.500, 1e-3), (0.750, 1e-3)),
    2: ((0.302, 1e-3), (0.582, 1e-3)),
    4: ((0.142, 1e-3), (0.375, 1e-3)),
    10: ((0.0337, 1e-4), (0.140, 1e-3)),
    24: ((0.00546, 1e-5), (0.0328, 1e-4)),
    50: ((9.1e-4, 1e-5), (6.8e-3, 1e-4)),
    100: ((1.4e-4, 1e-5), (1.2e-3, 1e-4)),
}


def scalar_kernels(r):
    return 1 - math.acos(r) / math.pi, (math.sqrt(1 - r * r) + r * (math.pi - math.acos(r))) / math.pi


@pytest.mark.parametrize("depth", PRINTED)
def test_correlations_are_the_printed_ones(depth):
    (plain, plain_unit), (residual, residual_unit) = PRINTED[depth]
    assert plain_correlation(depth).gradient_correlation[-1] == pytest.approx(plain, abs=0.51 * plain_unit)
    measured = residual_correlation(depth, 1.0, 1.0).gradient_correlation[-1]
    assert measured == pytest.approx(residual, abs=0.51 * residual_unit)


def test_plain_recursion_with_biases_equals_the_covariances_followed_by_hand():
    found = plain_correlation(6, 0.3, weight_variance=1.7, bias_variance=0.2, variance=1.5)
    q, c, R = 1.5, 0.3 * 1.5, 1.0
    for layer in range(6):
        first, second = scalar_kernels(c / q)
        assert found.input_correlation[layer] == pytest.approx(c / q, rel=1e-13)
        R *= first
        assert found.gradient_correlation[layer] == pytest.approx(R, rel=1e-13)
        q, c = 1.7 * q / 2 + 0.2, 1.7 * q * second / 2 + 0.2
    np.testing.assert_allclose(found.gradient_variance, 0.85 ** np.arange(1, 7))


def test_residual_recursion_equals_the_covariances_followed_by_hand():
    found = residual_correlation(5, 0.8, 0.6, -0.2)
    q, c, R = 1.0, -0.2, 1.0
    for layer in range(5):
        first, second = scalar_kernels(c / q)
        assert found.input_correlation[layer] == pytest.approx(c / q, rel=1e-13)
        R *= (0.64 + 0.36 * first) / (0.64 + 0.36)
        assert found.gradient_correlation[layer] == pytest.approx(R, rel=1e-13)
        q, c = 0.64 * q + 0.36 * q, 0.64 * c + 0.36 * q * second
    np.testing.assert_allclose(residual_correlation(3).gradient_variance, [2, 4, 8])


@pytest.mark.parametrize(
    ("recursion", "constant"), [(plain_correlation, 1), (residual_correlation, 4)], ids=["plain", "residual"]
)
def test_correlation_decays_as_the_inverse_cube_of_depth(recursion, constant):
    """A block with beta = 1 takes half a plain layer's step, so 1 - rho is 4 times the plain one."""
    profile = recursion(40_000)
    middle, end = profile.gradient_correlation[[19_999, 39_999]]
    assert math.log(end / middle) / math.log(2) == pytest.approx(-3, abs=0.02)
    gap = (1 - profile.input_correlation[19_999]) * 20_000**2
    assert gap == pytest.approx(constant * 9 * math.pi**2 / 2, rel=0.01)


def test_uncentred_highway_ends_above_the_corollary():
    found = residual_correlation(1000, math.sqrt(1 - 1e-3), math.sqrt(1e-3)).gradient_correlation[-1]
    assert found == pytest.approx(0.634, abs=1e-3)


@pytest.mark.parametrize("beta", [None, 1.0])
def test_recursions_agree_with_networks(beta):
    """Cosines of orthogonal inputs' forward signals and output gradients, by explicit matrices."""
    rng = np.random.default_rng(0)
    width, depth, cosines, overlaps = 512, 6, [], []
    for _ in range(6):
        h = np.linalg.qr(rng.standard_normal((width, 8)))[0] * math.sqrt(width)
        masks, weights = [], []
        for _ in range(depth):
            W = rng.standard_normal((width, width)) * math.sqrt(2 / width)
            masks.append(h > 0)
            weights.append(W)
            branch = W @ np.maximum(h, 0)
            h = branch if beta is None else h + beta * branch
        g = np.repeat(rng.standard_normal((width, 1)), 8, axis=1)
        for W, mask in zip(weights[::-1], masks[::-1], strict=True):
            through = mask * (W.T @ g)
            g = through if beta is None else g + beta * through
        cosines.append(((masks[-1].T * 1.0) @ masks[-1] / width)[np.triu_indices(8, 1)])
        g = g / np.linalg.norm(g, axis=0)
        overlaps.append((g.T @ g)[np.triu_indices(8, 1)])
    theory = plain_correlation(depth) if beta is None else residual_correlation(depth, 1.0, beta)
    assert np.mean(overlaps) == pytest.approx(theory.gradient_correlation[-1], abs=0.035)
    assert np.mean(cosines) == pytest.approx(coactivation(theory.input_correlation[-1]), abs=0.02)


def test_identical_inputs_keep_identical_gradients():
    for profile in (plain_correlation(50, 1.0), residual_correlation(50, rho=1.0)):
        np.testing.assert_allclose(profile.gradient_correlation, 1)


def test_variance_beyond_float64_is_an_error_and_its_logarithm_is_not():
    profile = residual_correlation(2000)
    assert profile.log_gradient_variance[-1] == pytest.approx(2000 * math.log(2))
    with pytest.raises(FloatingPointError, match="Use log_gradient_variance"):
        _ = profile.gradient_variance
    with pytest.raises(FloatingPointError, match="Use log_gradient_variance"):
        _ = plain_correlation(2000, weight_variance=1.0).gradient_variance
    with pytest.raises(FloatingPointError, match="overflow at layer"):
        plain_correlation(2000, weight_variance=8.0, bias_variance=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plain_correlation(0), "depth is a whole number of at least 1"),
        (lambda: plain_correlation(2.5), "depth is a whole number"),
        (lambda: plain_correlation(2, 1.5), "rho is a correlation"),
        (lambda: plain_correlation(2, float("nan")), "rho must be finite"),
        (lambda: plain_correlation(2, weight_variance=0), "weight_variance must be above 0"),
        (lambda: plain_correlation(2, bias_variance=-1), "bias_variance must be at least 0"),
        (lambda: residual_correlation(2, 1, -1), "beta must be at least 0"),
        (lambda: residual_correlation(2, 0, 0), "lets no gradient through"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
