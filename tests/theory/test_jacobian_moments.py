"""Moments of squared singular values against Jacobians formed as matrix products."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    activation_correlation,
    derivative_moments,
    jacobian_mean_square,
    jacobian_relative_variance,
    looks_linear_singular_values,
    residual_jacobian_relative_variance,
)


def moments(J):
    """Mean of s^2, and its variance over the squared mean, without the singular values themselves."""
    square = J.T @ J
    mean = np.trace(square) / len(J)
    return mean, np.square(square).sum() / len(J) / mean**2 - 1


def matrix(rng, width, weights):
    W = rng.standard_normal((width, width))
    return W / math.sqrt(width) if weights == "gaussian" else np.linalg.qr(W)[0]


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_relu_networks(weights):
    """n = 400, L = 4, mean over 3 nets: 1 within 0.1; 2 L and L within 20 %."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        h, J = rng.standard_normal(400), np.eye(400)
        for _ in range(4):
            W = math.sqrt(2) * matrix(rng, 400, weights)
            h, J = W @ h, W @ J
            J, h = (h > 0)[:, None] * J, np.maximum(h, 0)
        found.append(moments(J))
    mean, variance = np.mean(found, axis=0)
    assert mean == pytest.approx(jacobian_mean_square(4), abs=0.1)
    assert variance == pytest.approx(jacobian_relative_variance(4, weights=weights), rel=0.2)
    assert jacobian_relative_variance(4, weights=weights) == (8 if weights == "gaussian" else 4)


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_tanh_networks_off_criticality(weights):
    """w = 1.5 from q = 1: the mean shrinks, and every layer has moments of its own that add up."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        h, J = rng.standard_normal(300), np.eye(300)
        for _ in range(3):
            W = math.sqrt(1.5) * matrix(rng, 300, weights)
            J = W @ ((1 - np.tanh(h) ** 2)[:, None] * J)
            h = W @ np.tanh(h)
        found.append(moments(J))
    q, mean, variance = 1.0, 1.0, 0.0
    z = np.random.default_rng(9).standard_normal(400_000)
    for _ in range(3):
        mu_1, mu_2 = derivative_moments("tanh", variance=q)
        mean *= jacobian_mean_square(1, 1.5, mu_1)
        variance += jacobian_relative_variance(1, mu_1, mu_2, weights=weights)
        q = 1.5 * np.square(np.tanh(math.sqrt(q) * z)).mean()
    law = activation_correlation(3, "tanh", weight_variance=1.5).log_gradient_variance[-1]
    assert math.log(mean) == pytest.approx(law, abs=0.01)
    np.testing.assert_allclose(np.mean(found, axis=0), [mean, variance], rtol=0.1)


@pytest.mark.parametrize(
    ("beta", "two", "branch_variance"), [(1.0, False, 2.0), (1.0, True, 3.0), (0.4, True, 3.0)]
)
def test_residual_relu_networks(beta, two, branch_variance):
    """x + beta relu(W x), or x + beta V relu(W x), He-scaled, n = 400, L = 4."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        h, J = rng.standard_normal(400), np.eye(400)
        for _ in range(4):
            W = math.sqrt(2) * matrix(rng, 400, "gaussian")
            V = matrix(rng, 400, "gaussian") if two else np.eye(400)
            u = W @ h
            J = J + beta * V @ ((u > 0)[:, None] * (W @ J))
            h = h + beta * V @ np.maximum(u, 0)
        found.append(moments(J))
    mean, variance = np.mean(found, axis=0)
    assert mean == pytest.approx((1 + beta**2) ** 4, rel=0.1)
    law = residual_jacobian_relative_variance(4, beta**2, branch_variance)
    assert variance == pytest.approx(law, rel=0.2)


def test_limits():
    assert residual_jacobian_relative_variance(1, 1e9, 2.0) == pytest.approx(2.0)
    assert residual_jacobian_relative_variance(10_000, 0.5 / 10_000) == pytest.approx(1.0, rel=1e-3)
    assert residual_jacobian_relative_variance(5, 0.0) == 0
    assert jacobian_relative_variance(50, 1.0, 1.0, weights="orthogonal") == 0
    np.testing.assert_allclose(jacobian_mean_square([1, 3], 1.0), [0.5, 0.125])
    assert derivative_moments(lambda x: 3 * x, lambda x: np.full_like(x, 3.0)) == pytest.approx((9.0, 81.0))


def test_derivative_moments_of_samples():
    u = np.sqrt(0.7) * np.random.default_rng(0).standard_normal(1_000_000)
    slope = 1 - np.tanh(u) ** 2
    assert derivative_moments("tanh", variance=0.7) == pytest.approx(
        ((slope**2).mean(), (slope**4).mean()), abs=2e-3
    )


def test_looks_linear_nets_are_isometric_at_any_depth():
    """[W, -W] on (relu(x), relu(-x)), W orthogonal, 60 layers; also linear, with R = 1."""
    rng = np.random.default_rng(0)
    weights = [np.linalg.qr(rng.standard_normal((32, 32)))[0] for _ in range(60)]
    h, J, linear = rng.standard_normal(32), np.eye(32), np.eye(32)
    x = h
    for W in weights:
        both = np.concatenate([W, -W], axis=1)
        signs = np.concatenate([h > 0, h < 0])
        J = both @ (signs[:, None] * np.concatenate([J, -J]))
        h = both @ np.concatenate([np.maximum(h, 0), np.maximum(-h, 0)])
        linear = W @ linear
    found = np.linalg.svd(J, compute_uv=False)
    np.testing.assert_allclose(found, looks_linear_singular_values(32, 60), atol=1e-11)
    np.testing.assert_allclose(h, linear @ x, atol=1e-11)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jacobian_mean_square(0), ValueError, "depth counts layers"),
        (lambda: jacobian_mean_square(3, -1), ValueError, "weight_variance must be above 0"),
        (lambda: jacobian_mean_square(5000, 8.0), FloatingPointError, "leaves the range"),
        (lambda: jacobian_relative_variance(3, 0.5, 0.1), ValueError, r"mu_2 is at least mu_1\^2"),
        (lambda: jacobian_relative_variance(3, weights="sparse"), ValueError, "'sparse'"),
        (lambda: residual_jacobian_relative_variance(3, -1), ValueError, "branch_gain must be at least 0"),
        (lambda: derivative_moments("prelu"), ValueError, "Use the closed forms"),
        (lambda: looks_linear_singular_values(0, 3), ValueError, "width is a whole number"),
    ],
)
def test_arguments_outside_their_range_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
