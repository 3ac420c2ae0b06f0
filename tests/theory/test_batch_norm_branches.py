"""Residual branches of several normalised layers against networks."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    local_exponent,
    residual_batch_norm,
    residual_batch_norm_branches,
    residual_batch_norm_branches_variance,
    residual_batch_norm_variance,
    residual_centred,
    residual_correlation,
)
from tests.theory.simulated import correlation_R


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_one_layer_a_branch_is_the_known_law(beta):
    depth = np.array([1, 7, 60])
    found = residual_batch_norm_branches(depth, beta, 1, input_variance=1.3)
    np.testing.assert_allclose(found, residual_batch_norm(depth, beta, input_variance=1.3), rtol=1e-12)
    found = residual_batch_norm_branches_variance(depth, beta, 1, input_variance=1.3)
    np.testing.assert_allclose(
        found, residual_batch_norm_variance(depth, beta, input_variance=1.3), rtol=1e-12
    )


def test_exponents():
    q, depth = 1 - 1 / math.pi, [10**5, 2 * 10**5]
    for k, exponent in ((1, 0.733), (2, 1.614)):
        found = local_exponent(depth, residual_batch_norm_branches(depth, 1.0, k))[0]
        assert found == pytest.approx(-(1 - 2.0**-k) / q**k, abs=1e-3)
        assert -found == pytest.approx(exponent, abs=1e-3)
    found = local_exponent(depth, residual_batch_norm_branches_variance(depth, 1.0, 2))[0]
    assert found == pytest.approx(1 / q**2, abs=1e-3)
    assert residual_batch_norm_branches(5, 0.0) == 1


@pytest.mark.parametrize(
    ("normalisation", "beta"), [("batch", 1.0), ("batch", 0.3), ("mean", 1.0), ("none", 1.0)]
)
def test_two_layer_branches_follow_the_laws(normalisation, beta):
    """x + beta W2 relu(n(W1 relu(n(x)))), n with frozen statistics; N = 256, B = 64, 8 blocks, 4 nets."""
    width, examples, depth, found, sizes = 256, 64, 8, [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        h, blocks = np.linalg.qr(rng.standard_normal((width, examples)))[0] * math.sqrt(width), []
        for _ in range(depth):
            inner, u = [], h
            for _ in range(2):
                deviation = u.std(axis=1, keepdims=True) if normalisation == "batch" else 1.0
                if normalisation != "none":
                    u = u - u.mean(axis=1, keepdims=True)
                W = rng.standard_normal((width, width)) * math.sqrt(2 / width)
                inner.append((W, (u > 0) / deviation))
                u = W @ np.maximum(u / deviation, 0)
            blocks.append(inner)
            h = h + beta * u
        g = np.repeat(rng.standard_normal((width, 1)), examples, axis=1)
        start = np.square(g).mean()
        for inner in blocks[::-1]:
            through = g
            for W, slope in inner[::-1]:
                through = slope * (W.T @ through)
            g = g + beta * through
        found.append(correlation_R(g))
        sizes.append(math.log(np.square(g).mean() / start))
    if normalisation == "batch":
        law = residual_batch_norm_branches(depth, beta)
        variance = math.log(residual_batch_norm_branches_variance(depth, beta))
    elif normalisation == "mean":
        law, variance = residual_centred(depth, beta=beta, batch=examples, branch_layers=2), 8 * math.log(2)
    else:
        profile = residual_correlation(depth, beta=beta, branch_layers=2)
        law, variance = profile.gradient_correlation[-1], 8 * math.log(2)
    assert np.mean(found) == pytest.approx(float(law), abs=0.03)
    assert np.mean(sizes) == pytest.approx(variance, abs=0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: residual_batch_norm_branches(0), "depth counts layers"),
        (lambda: residual_batch_norm_branches(3, -1), "beta must be at least 0"),
        (lambda: residual_batch_norm_branches(3, 1, 0), "branch_layers is a whole number"),
        (lambda: residual_batch_norm_branches(3, input_variance=0), "input_variance must be above 0"),
        (lambda: residual_correlation(3, branch_layers=0), "branch_layers is a whole number"),
        (lambda: residual_centred(3, branch_layers=0), "branch_layers is a whole number"),
        (lambda: residual_centred(3, batch=1), "batch is a whole number of at least 2"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
