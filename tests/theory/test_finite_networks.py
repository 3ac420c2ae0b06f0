"""Every statement about finite networks at the widths, batches, seeds and tolerances that it was stated with."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.theory import (
    coactivation,
    highway,
    plain_batch_norm_variance,
    plain_centred,
    plain_coactivation,
    plain_correlation,
    residual_batch_norm,
    residual_centred,
    residual_centred_variance,
)
from tests.theory.simulated import correlation_R, input_gradients, relu_network


def test_plain_uncentred_cosines_follow_the_recursion_and_not_two_to_the_minus_depth():
    """d = N = 512, 8 seeds of 8 pairs of orthogonal inputs."""
    depths, width = [1, 2, 4, 7, 10], 512
    cosines = np.zeros((8, len(depths)))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        inputs = np.linalg.qr(rng.standard_normal((width, 16)))[0] * math.sqrt(width)
        layers = relu_network(inputs, depths[-1], rng)
        for i, depth in enumerate(depths):
            g = input_gradients(layers[:depth], rng)
            g /= np.linalg.norm(g, axis=0)
            cosines[seed, i] = (g[:, ::2] * g[:, 1::2]).sum(axis=0).mean()
    law = plain_correlation(depths[-1]).gradient_correlation[np.array(depths) - 1]
    np.testing.assert_allclose(cosines.mean(axis=0), law, atol=0.035)
    assert cosines.mean(axis=0)[2] > 0.063 + 0.035


@pytest.mark.parametrize(
    ("alpha", "law"), [(0.0, plain_centred), (1.0, residual_centred)], ids=["theorem 1", "theorem 2"]
)
def test_mean_centred_theorems(alpha, law):
    """N = 256, B = 128, 4 seeds, L <= 8."""
    depths = np.array([1, 2, 4, 6, 8])
    correlations, sizes = np.zeros((4, 5)), np.zeros((4, 5))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        layers = relu_network(rng.standard_normal((256, 128)), 8, rng, alpha=alpha, normalisation="mean")
        for i, depth in enumerate(depths):
            g = input_gradients(layers[:depth], rng)
            correlations[seed, i], sizes[seed, i] = correlation_R(g), np.square(g).mean()
    np.testing.assert_allclose(correlations.mean(axis=0), law(depths), atol=0.02)
    np.testing.assert_allclose(sizes.mean(axis=0), residual_centred_variance(depths, alpha, 1.0), rtol=0.3)


def test_a_small_batch_is_less_correlated_by_what_centring_takes_away():
    """B = 4: factor k0(-1/3) = 0.392 a layer instead of 1/2, from inputs that are exactly orthogonal."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        inputs = np.linalg.qr(rng.standard_normal((256, 4)))[0] * 16
        for alpha in (0.0, 1.0):
            layers = relu_network(inputs, 3, rng, alpha=alpha, normalisation="mean")
            found.append(correlation_R(input_gradients(layers, rng)))
    plain, residual = np.reshape(found, (12, 2)).mean(axis=0)
    assert plain == pytest.approx(plain_centred(3, batch=4), abs=0.02)
    assert residual == pytest.approx(residual_centred(3, batch=4), abs=0.02)
    assert plain_centred(1, batch=2) == 0


def test_highway_of_twenty_blocks():
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        gammas = {"alpha": math.sqrt(1 - 1 / 20), "beta": math.sqrt(1 / 20)}
        layers = relu_network(rng.standard_normal((256, 128)), 20, rng, normalisation="mean", **gammas)
        found.append(correlation_R(input_gradients(layers, rng)))
    assert np.mean(found) == pytest.approx(highway(20), abs=0.02)
    assert highway(20) == pytest.approx(0.603, abs=5e-4)


@pytest.mark.parametrize("beta", [1.0, 0.3, 0.1])
def test_batch_norm_residual_nets(beta):
    """N = 256, B = 128, 4 seeds, L <= 50."""
    depths = np.array([4, 10, 24, 50])
    found = np.zeros((4, 4))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        layers = relu_network(
            rng.standard_normal((256, 128)), 50, rng, alpha=1.0, beta=beta, normalisation="batch"
        )
        found[seed] = [correlation_R(input_gradients(layers[:depth], rng)) for depth in depths]
    np.testing.assert_allclose(found.mean(axis=0), residual_batch_norm(depths, beta), atol=0.03)


def test_variance_growth_of_plain_batch_norm():
    """N = 400, B = 256, per layer."""
    ratios = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        layers = relu_network(rng.standard_normal((400, 256)), 8, rng, normalisation="batch")
        # The first layer's deviation is the inputs' own, 1; below the second, every layer's is the same.
        sizes = [np.square(input_gradients(layers[:depth], rng)).mean() for depth in (2, 8)]
        ratios.append((sizes[1] / sizes[0]) ** (1 / 6))
    assert np.mean(ratios) == pytest.approx(plain_batch_norm_variance(1), abs=0.06)


@pytest.mark.parametrize(("normalisation", "deepest"), [("mean", 25), ("batch", 50)])
def test_centring_keeps_coactivation_at_a_quarter(normalisation, deepest):
    """Mean-centring alone does not for ever: see test_batch_kernel."""
    for alpha in (0.0, 1.0):
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((256, 128))
        layers = relu_network(inputs, deepest, rng, alpha=alpha, normalisation=normalisation)
        for layer in (layers[0], layers[9], layers[-1]):
            both = layer.active.T.astype(float) @ layer.active / 256
            share = (both.sum() - np.trace(both)) / 128 / 127
            assert share == pytest.approx(0.25, abs=0.01)


def test_coactivation_rises_without_centring():
    """24 nets of N = 300, two orthogonal inputs."""
    shares = np.zeros((24, 12))
    for seed in range(24):
        rng = np.random.default_rng(seed)
        inputs = np.linalg.qr(rng.standard_normal((300, 2)))[0] * math.sqrt(300)
        shares[seed] = [layer.active.all(axis=1).mean() for layer in relu_network(inputs, 12, rng)]
    np.testing.assert_allclose(shares.mean(axis=0), plain_coactivation(12), atol=0.02)
    assert plain_coactivation(12)[0] == pytest.approx(coactivation(0.0))


@pytest.mark.parametrize("depth", [1, 10, 50])
def test_a_zero_bias_net_of_a_scalar_has_two_gradients(depth):
    rng = np.random.default_rng(depth)
    points = np.linspace(-2, 2, 64)
    layers = relu_network(rng.standard_normal((20, 1)) * points, depth, rng)
    g = input_gradients(layers, rng)
    assert len(np.unique(np.round(g / np.abs(g).max(), 10), axis=1).T) == 2


def test_weight_gradients_factor_into_forward_and_backward_products():
    """Gram matrices of per-example gradients by autograd, example by example, of any layer of an MLP."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    outputs = [x]
    for module in net:
        outputs.append(module(outputs[-1]))
    for position in (0, 2, 4):
        weight = net[position].weight
        rows = [torch.autograd.grad(net(row).sum(), weight)[0].flatten() for row in x]
        gradients = torch.stack(rows)
        A = outputs[position]
        (D,) = torch.autograd.grad(outputs[-1].sum(), outputs[position + 1], retain_graph=True)
        torch.testing.assert_close((A @ A.T) * (D @ D.T), gradients @ gradients.T, rtol=1e-12, atol=1e-14)
