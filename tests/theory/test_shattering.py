"""The centred laws against the paper's values and against simulated mean-centred networks."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    highway,
    plain_batch_norm_variance,
    plain_centred,
    residual_centred,
    residual_centred_variance,
)

# depth: (Theorem 1, Theorem 2), with the unit of the last printed digit
PRINTED = {
    1: ((0.5, 1e-3), (0.75, 1e-3)),
    2: ((0.25, 1e-3), (0.563, 1e-3)),
    4: ((0.063, 1e-3), (0.316, 1e-3)),
    10: ((0.00098, 1e-5), (0.056, 1e-3)),
    24: ((6e-8, 1e-8), (0.001, 1e-3)),
    50: ((9e-16, 1e-16), (6e-7, 1e-7)),
}


@pytest.mark.parametrize("depth", PRINTED)
def test_theorems_have_the_printed_values(depth):
    (plain, plain_unit), (residual, residual_unit) = PRINTED[depth]
    assert plain_centred(depth) == pytest.approx(plain, abs=0.51 * plain_unit)
    assert residual_centred(depth) == pytest.approx(residual, abs=0.51 * residual_unit)


def test_laws_take_arrays_of_depths():
    depth = np.array([[1, 2], [3, 10]])
    np.testing.assert_allclose(plain_centred(depth), 0.5**depth)
    np.testing.assert_allclose(residual_centred(depth), 0.75**depth)
    np.testing.assert_allclose(residual_centred(depth, beta=math.sqrt(2)), (2 / 3) ** depth)
    np.testing.assert_allclose(residual_centred_variance(depth), 2.0**depth)
    np.testing.assert_allclose(residual_centred_variance(depth, 0.5, 0.1), 0.26**depth)
    np.testing.assert_allclose(plain_batch_norm_variance(depth), 1.466942**depth, rtol=1e-5)


def test_highway_tends_to_the_root_of_one_over_e():
    np.testing.assert_allclose(highway([1, 20]), [0.5, 0.975**20])
    assert highway(20) == pytest.approx(0.603, abs=5e-4)
    assert highway(10**7) == pytest.approx(math.exp(-0.5), abs=1e-7)
    assert highway(5, 0.6, 0.8) == pytest.approx((0.36 + 0.32) ** 5)


@pytest.mark.parametrize(
    ("alpha", "beta", "law"),
    [
        (0.0, 1.0, plain_centred),
        (1.0, 1.0, residual_centred),
        (math.sqrt(1 - 1 / 6), math.sqrt(1 / 6), highway),
    ],
    ids=["plain", "residual", "highway"],
)
def test_mean_centred_networks_follow_the_laws(alpha, beta, law):
    """R = mean off-diagonal over mean diagonal of the gradients' Gram matrix, frozen means, 6 layers."""
    rng = np.random.default_rng(1)
    width, inputs, depth, ratios, sizes = 256, 128, 6, [], []
    for _ in range(4):
        h, weights, masks = rng.standard_normal((width, inputs)), [], []
        for _ in range(depth):
            W = rng.standard_normal((width, width)) * math.sqrt(2 / width)
            centred = h - h.mean(axis=1, keepdims=True)
            weights.append(W)
            masks.append(centred > 0)
            h = alpha * h + beta * (W @ np.maximum(centred, 0))
        g = np.repeat(rng.standard_normal((width, 1)), inputs, axis=1)
        start = np.square(g).sum(axis=0).mean()
        for W, mask in zip(weights[::-1], masks[::-1], strict=True):
            g = alpha * g + beta * mask * (W.T @ g)
        gram = g.T @ g
        diagonal = np.trace(gram) / inputs
        ratios.append((gram.sum() - np.trace(gram)) / (inputs * (inputs - 1)) / diagonal)
        sizes.append(diagonal / start)
    assert np.mean(ratios) == pytest.approx(law(depth), abs=0.02)
    assert np.mean(sizes) == pytest.approx(residual_centred_variance(depth, alpha, beta), rel=0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plain_centred(0), "depth counts layers"),
        (lambda: plain_centred([1.5]), "depth counts layers"),
        (lambda: plain_centred([]), "depth counts layers"),
        (lambda: residual_centred(3, beta=-1), "beta must be at least 0"),
        (lambda: residual_centred(3, 0, 0), "lets no gradient through"),
        (lambda: highway(3, 0.5), "both gamma_1 and gamma_2"),
        (lambda: highway(3, 1.0, 0.5), "use residual_centred"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_variance_beyond_float64_is_an_error():
    with pytest.raises(FloatingPointError, match="exceeds float64"):
        residual_centred_variance(1100)
