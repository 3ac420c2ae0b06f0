"""The recursion of a whole batch's kernel against closed forms, loops, and networks on classes."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    batch_kernel_correlation,
    coactivation,
    plain_centred,
    plain_correlation,
    residual_batch_norm,
    residual_batch_norm_variance,
    residual_centred,
    residual_correlation,
)
from tests.theory.simulated import input_gradients, relu_network

DEPTHS = np.arange(1, 9)


def classes(rng, dimensions=256, groups=4, each=8):
    """Inputs [d, B] of norm sqrt(d), cosine 0.6 within a class."""
    centres = rng.standard_normal((dimensions, groups)).repeat(each, axis=1)
    return math.sqrt(0.6) * centres + math.sqrt(0.4) * rng.standard_normal((dimensions, groups * each))


def by_hand(K, depth, alpha, beta):
    """Mean-centred, one pair of inputs at a time."""
    B, G = len(K), np.ones((len(K), len(K)))
    for _ in range(depth):
        C = np.array(
            [[K[i, j] - K[i].mean() - K[:, j].mean() + K.mean() for j in range(B)] for i in range(B)]
        )
        V, S = np.zeros((B, B)), np.zeros((B, B))
        for i in range(B):
            for j in range(B):
                size = math.sqrt(C[i, i] * C[j, j])
                angle = math.acos(min(1.0, max(-1.0, C[i, j] / size))) if i != j else 0.0
                V[i, j] = size * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi
                S[i, j] = 1 - angle / math.pi
        K, G = alpha**2 * K + beta**2 * V, G * (alpha**2 + beta**2 * S)
    return G


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (1.0, 0.7)])
def test_recursion_equals_every_pair_followed_by_hand(alpha, beta):
    X = classes(np.random.default_rng(0), 6, 2, 3)
    found = batch_kernel_correlation(X.T @ X / 6, 4, alpha=alpha, beta=beta)
    G = by_hand(X.T @ X / 6, 4, alpha, beta)
    size = np.sqrt(np.diag(G))
    np.testing.assert_allclose(found.cosine[3], G / np.outer(size, size), rtol=1e-9)
    assert found.log_gradient_variance[3] == pytest.approx(math.log(np.trace(G) / 6))
    off = G[~np.eye(6, dtype=bool)].mean()
    assert found.gradient_correlation[3] == pytest.approx(off / np.diag(G).mean(), rel=1e-9)


def test_inputs_that_are_all_alike_follow_the_laws_of_one_number():
    equal = np.eye(16)
    plain = batch_kernel_correlation(equal, 8).gradient_correlation
    np.testing.assert_allclose(plain, plain_centred(DEPTHS, batch=16), rtol=1e-10)
    residual = batch_kernel_correlation(equal, 8, alpha=1.0, beta=0.6).gradient_correlation
    np.testing.assert_allclose(residual, residual_centred(DEPTHS, 1.0, 0.6, 16), rtol=1e-10)
    pair = np.array([[1, 0.3], [0.3, 1]])
    raw = batch_kernel_correlation(pair, 8, normalisation="none").gradient_correlation
    np.testing.assert_allclose(raw, plain_correlation(8, 0.3).gradient_correlation, rtol=1e-12)
    raw = batch_kernel_correlation(pair, 8, alpha=1.0, normalisation="none").gradient_correlation
    np.testing.assert_allclose(raw, residual_correlation(8, rho=0.3).gradient_correlation, rtol=1e-12)


def test_many_inputs_under_batch_norm_follow_the_residual_law():
    options = {"alpha": 1.0, "normalisation": "batch", "generator": np.random.default_rng(0)}
    found = batch_kernel_correlation(np.eye(256), 8, samples=2048, **options)
    np.testing.assert_allclose(found.gradient_correlation, residual_batch_norm(DEPTHS, 1.0), atol=0.01)
    law = np.log(residual_batch_norm_variance(DEPTHS, 1.0))
    np.testing.assert_allclose(found.log_gradient_variance, law, rtol=0.03)


@pytest.mark.parametrize("normalisation", ["none", "mean", "batch"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_networks_on_classes_follow_the_recursion_pair_by_pair(normalisation, alpha):
    rng = np.random.default_rng(1)
    X = classes(rng)
    found = batch_kernel_correlation(
        X.T @ X / 256, 4, alpha=alpha, normalisation=normalisation, samples=2048, generator=rng
    )
    gram = np.zeros((32, 32))
    for _ in range(12):
        g = input_gradients(relu_network(X, 4, rng, alpha=alpha, normalisation=normalisation), rng)
        gram += g.T @ g / np.square(g).sum()
    size = np.sqrt(np.diag(gram))
    simulated, law = gram / np.outer(size, size), found.cosine[3]
    same = np.kron(np.eye(4), np.ones((8, 8))).astype(bool) & ~np.eye(32, dtype=bool)
    other = np.kron(1 - np.eye(4), np.ones((8, 8))).astype(bool)
    assert simulated[same].mean() == pytest.approx(law[same].mean(), abs=0.03)
    assert simulated[other].mean() == pytest.approx(law[other].mean(), abs=0.03)
    assert law[same].mean() > law[other].mean() + 0.05


def test_mean_centring_alone_lets_one_input_outgrow_the_others():
    X = np.random.default_rng(0).standard_normal((128, 256))
    kernels = batch_kernel_correlation(X @ X.T / 256, 100).kernel
    shares = []
    for K in (kernels[0], kernels[24], kernels[99]):
        K = K - K.mean(axis=0) - K.mean(axis=1)[:, None] + K.mean()
        size = np.sqrt(np.diag(K))
        share = coactivation(np.clip(K / np.outer(size, size), -1, 1))
        shares.append((share.sum() - np.trace(share)) / 128 / 127)
    np.testing.assert_allclose(shares[:2], 0.25, atol=0.01)
    assert shares[2] > 0.3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: batch_kernel_correlation(np.ones((2, 3)), 2), ValueError, "square matrix"),
        (lambda: batch_kernel_correlation([[1.0]], 2), ValueError, "at least two"),
        (lambda: batch_kernel_correlation([[1, 0.5], [0.2, 1]], 2), ValueError, "must be symmetric"),
        (lambda: batch_kernel_correlation([[1, 2], [2, 1]], 2), ValueError, "negative eigenvalue"),
        (lambda: batch_kernel_correlation(np.eye(3), 0), ValueError, "depth is a whole number"),
        (lambda: batch_kernel_correlation(np.eye(3), 2, beta=0), ValueError, "lets no gradient through"),
        (
            lambda: batch_kernel_correlation(np.eye(3), 2, normalisation="batch"),
            ValueError,
            "pass generator",
        ),
        (lambda: batch_kernel_correlation(np.eye(3), 2, normalisation="layer"), ValueError, "'layer'"),
        (lambda: batch_kernel_correlation(np.ones((3, 3)), 2), FloatingPointError, "no variance left"),
    ],
)
def test_arguments_outside_their_range_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
