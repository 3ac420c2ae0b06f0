"""The recursions of smooth activations against closed forms, printed values, and networks."""

import math

import numpy as np
import pytest

from gradscope.theory import activation_correlation, residual_activation_correlation

TANH = (np.tanh, lambda x: 1 - np.tanh(x) ** 2)


@pytest.mark.parametrize(
    ("weights", "biases", "printed"),
    [(1.0, 0.0, (0.797, 0.747, 0.726)), (2.0, 0.05, (0.737, 0.511, 0.291))],
)
def test_plain_tanh_has_the_printed_values(weights, biases, printed):
    found = activation_correlation(10, "tanh", rho=0.6, weight_variance=weights, bias_variance=biases)
    np.testing.assert_allclose(found.gradient_correlation[[1, 4, 9]], printed, atol=5.1e-4)


def test_residual_tanh_has_the_printed_values_where_few_hermite_nodes_resolve_it():
    """61 Gauss-Hermite nodes give 0.450 at L = 10, where the pre-activations' variance is 6.8; it is 0.454."""
    found = residual_activation_correlation(10, "tanh", rho=0.6)
    np.testing.assert_allclose(found.gradient_correlation[[1, 4]], (0.895, 0.711), atol=6e-4)
    assert found.gradient_correlation[9] == pytest.approx(0.4544, abs=1e-4)


def test_erf_follows_the_arcsine_kernel():
    """E[erf(u) erf(v)] = (2 / pi) asin(2 q c / (1 + 2 q)) (Williams 1996), and its derivative in c."""
    found = activation_correlation(6, "erf", rho=0.3, weight_variance=1.7, bias_variance=0.1, variance=0.8)
    q, c, R, log_variance = 0.8, 0.3, 1.0, 0.0
    for layer in range(6):
        assert found.input_correlation[layer] == pytest.approx(c, rel=1e-9)
        pair, alone = (4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * r) ** 2) for r in (c, 1.0))
        R, log_variance = R * pair / alone, log_variance + math.log(1.7 * alone)
        assert found.gradient_correlation[layer] == pytest.approx(R, rel=1e-9)
        assert found.log_gradient_variance[layer] == pytest.approx(log_variance, rel=1e-9)
        product, square = (2 / math.pi * math.asin(2 * q * r / (1 + 2 * q)) for r in (c, 1.0))
        q, c = 1.7 * square + 0.1, (1.7 * product + 0.1) / (1.7 * square + 0.1)


def test_linear_activation_leaves_gradients_alike():
    found = activation_correlation(5, lambda x: 2 * x, lambda x: np.full_like(x, 2.0), rho=0.2)
    np.testing.assert_allclose(found.gradient_correlation, 1)
    np.testing.assert_allclose(found.input_correlation, 0.2)
    np.testing.assert_allclose(found.gradient_variance, 4.0 ** np.arange(1, 6))


def test_functions_and_names_agree_and_alike_inputs_stay_alike():
    named = activation_correlation(4, "tanh", rho=-0.3).gradient_correlation
    np.testing.assert_array_equal(named, activation_correlation(4, *TANH, rho=-0.3).gradient_correlation)
    np.testing.assert_allclose(activation_correlation(4, "gelu", rho=1.0).gradient_correlation, 1)
    np.testing.assert_allclose(residual_activation_correlation(4, "silu", rho=1.0).gradient_correlation, 1)


@pytest.mark.parametrize(
    ("activation", "function", "slope"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), None),
        ("silu", lambda x: x / (1 + np.exp(-x)), None),
    ],
)
def test_named_derivatives_are_those_of_their_functions(activation, function, slope):
    rng = np.random.default_rng(0)
    u, w = rng.standard_normal((2, 200_000))
    v = 0.5 * u + math.sqrt(0.75) * w
    step = 1e-5
    du, dv = ((function(x + step) - function(x - step)) / (2 * step) for x in (u, v))
    found = activation_correlation(2, activation, rho=0.5)
    assert found.gradient_correlation[0] == pytest.approx((du * dv).mean() / (du * du).mean(), abs=6e-3)
    q = (function(u) ** 2).mean()
    assert found.input_correlation[1] == pytest.approx((function(u) * function(v)).mean() / q, abs=6e-3)


@pytest.mark.parametrize(("weights", "biases"), [(1.0, 0.0), (2.0, 0.05)])
def test_plain_tanh_networks_follow_the_recursion(weights, biases):
    """N = 512, 6 seeds of 8 pairs with cosine 0.6, L = 10."""
    cosines = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        h, layers = pairs(rng), []
        for _ in range(10):
            W = rng.standard_normal((512, 512)) * math.sqrt(weights / 512)
            layers.append((W, 1 - np.tanh(h) ** 2))
            h = W @ np.tanh(h) + math.sqrt(biases) * rng.standard_normal((512, 1))
        g = np.repeat(rng.standard_normal((512, 1)), 16, axis=1)
        for W, slope in layers[::-1]:
            g = slope * (W.T @ g)
        cosines.append(cosine(g))
    law = activation_correlation(10, "tanh", rho=0.6, weight_variance=weights, bias_variance=biases)
    assert np.mean(cosines) == pytest.approx(law.gradient_correlation[-1], abs=0.03)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_residual_networks_follow_the_recursion(activation):
    """x <- x + V phi(W x + b) + a, N = 512, 6 seeds of 8 pairs with cosine 0.6, L = 6."""
    from scipy.special import ndtr

    def phi(x):
        return np.tanh(x) if activation == "tanh" else x * ndtr(x)

    def slope(x):
        return (phi(x + 1e-6) - phi(x - 1e-6)) / 2e-6

    cosines, logarithms = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        h, layers = pairs(rng), []
        for _ in range(6):
            W, V = rng.standard_normal((2, 512, 512)) / math.sqrt(512)
            u = W @ h + math.sqrt(0.1) * rng.standard_normal((512, 1))
            layers.append((W, V, slope(u)))
            h = h + V @ phi(u) + math.sqrt(0.2) * rng.standard_normal((512, 1))
        g = np.repeat(rng.standard_normal((512, 1)), 16, axis=1)
        start = np.square(g).mean()
        for W, V, factor in layers[::-1]:
            g = g + W.T @ (factor * (V.T @ g))
        cosines.append(cosine(g))
        logarithms.append(math.log(np.square(g).mean() / start))
    law = residual_activation_correlation(6, activation, rho=0.6, bias_variance=0.1, output_bias_variance=0.2)
    assert np.mean(cosines) == pytest.approx(law.gradient_correlation[-1], abs=0.03)
    assert np.mean(logarithms) == pytest.approx(law.log_gradient_variance[-1], abs=0.1)


def pairs(rng):
    basis = np.linalg.qr(rng.standard_normal((512, 16)))[0] * math.sqrt(512)
    inputs = basis.copy()
    inputs[:, 1::2] = 0.6 * basis[:, ::2] + 0.8 * basis[:, 1::2]
    return inputs


def cosine(g):
    g = g / np.linalg.norm(g, axis=0)
    return (g[:, ::2] * g[:, 1::2]).sum(axis=0).mean()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: activation_correlation(2, "relu"), ValueError, "Use the closed forms"),
        (lambda: activation_correlation(2, "leaky_relu"), ValueError, "leaky_relu_correlation"),
        (lambda: activation_correlation(2, "swish"), ValueError, "known by name are tanh"),
        (lambda: activation_correlation(2, "tanh", np.cos), ValueError, "Leave derivative out"),
        (lambda: activation_correlation(2, np.tanh), ValueError, "needs its derivative"),
        (lambda: activation_correlation(2, np.tanh, np.tanh), ValueError, "not that of activation"),
        (lambda: activation_correlation(2, np.abs, np.sign), ValueError, "a kink or a jump"),
        (
            lambda: activation_correlation(2, lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
            ValueError,
            "a kink or a jump",
        ),
        (lambda: activation_correlation(0, "tanh"), ValueError, "depth is a whole number"),
        (lambda: activation_correlation(2, "tanh", rho=2), ValueError, "rho is a correlation"),
        (lambda: activation_correlation(2, "tanh", variance=0), ValueError, "variance must be above 0"),
        (lambda: activation_correlation(2, "tanh", variance=1e6), FloatingPointError, "does not resolve"),
        (
            lambda: activation_correlation(8, "gelu", weight_variance=1e-60),
            FloatingPointError,
            "vanish at layer",
        ),
        (
            lambda: residual_activation_correlation(2, "tanh", weight_variance=0),
            ValueError,
            "weight_variance must be above 0",
        ),
    ],
)
def test_arguments_outside_their_range_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
