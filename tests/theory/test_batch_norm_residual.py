"""The laws of batch-normalised residual nets against printed values, loops, and simulated networks."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    residual_batch_norm,
    residual_batch_norm_bounded,
    residual_batch_norm_covariance,
    residual_batch_norm_paper,
    residual_batch_norm_variance,
)

# depth: (beta = 1, beta = 1 with c = 1, beta = 0.3, beta = 0.1), with the unit of the last printed digit
PRINTED = {
    1: ((0.750, 1e-3), (0.750, 1e-3), (0.959, 1e-3), (0.995, 1e-3)),
    2: ((0.610, 1e-3), (0.625, 1e-3), (0.921, 1e-3), (0.990, 1e-3)),
    4: ((0.455, 1e-3), (0.492, 1e-3), (0.856, 1e-3), (0.981, 1e-3)),
    10: ((0.275, 1e-3), (0.336, 1e-3), (0.711, 1e-3), (0.953, 1e-3)),
    24: ((0.156, 1e-3), (0.225, 1e-3), (0.523, 1e-3), (0.895, 1e-3)),
    50: ((0.0941, 1e-4), (0.158, 1e-3), (0.365, 1e-3), (0.807, 1e-3)),
    100: ((0.0574, 1e-4), (0.112, 1e-3), (0.242, 1e-3), (0.684, 1e-3)),
}


def products(depth, beta, c, start):
    variance = covariance = 1.0
    for block in range(depth):
        share = beta**2 / (start + beta**2 * c * block)
        variance, covariance = variance * (1 + share), covariance * (1 + share / 2)
    return variance, covariance


@pytest.mark.parametrize("depth", PRINTED)
def test_correlations_are_the_printed_ones(depth):
    exact, product, weak, weaker = PRINTED[depth]
    for (value, unit), beta, options in [
        (exact, 1.0, {}),
        (product, 1.0, {"c": 1.0}),
        (weak, 0.3, {}),
        (weaker, 0.1, {}),
    ]:
        assert residual_batch_norm(depth, beta, **options) == pytest.approx(value, abs=0.51 * unit)


@pytest.mark.parametrize(
    ("beta", "c", "start"), [(1.0, 1 - 1 / math.pi, 1.0), (0.3, 1.0, 2.5), (2.0, 0.0, 3.0), (0.0, 0.7, 1.0)]
)
def test_moments_are_the_products(beta, c, start):
    depth = np.array([1, 2, 7, 40])
    expected = np.array([products(n, beta, c, start) for n in depth])
    np.testing.assert_allclose(
        residual_batch_norm_variance(depth, beta, c, start), expected[:, 0], rtol=1e-12
    )
    np.testing.assert_allclose(
        residual_batch_norm_covariance(depth, beta, c, start), expected[:, 1], rtol=1e-12
    )
    correlation = expected[:, 1] / expected[:, 0]
    np.testing.assert_allclose(residual_batch_norm(depth, beta, c, start), correlation, rtol=1e-12)


@pytest.mark.parametrize(
    ("beta", "c", "start"), [(1.0, 1 - 1 / math.pi, 1.0), (0.1, 1.0, 2.0), (0.001, 0.0, 1.0)]
)
def test_closed_form_beyond_the_longest_product_equals_the_product(beta, c, start):
    depth = 200_000
    share = beta**2 / (start + beta**2 * c * np.arange(depth))
    variance, covariance = np.log1p(share).sum(), np.log1p(share / 2).sum()
    found = residual_batch_norm([3, depth], beta, c, start)
    np.testing.assert_allclose(found[1], math.exp(covariance - variance), rtol=1e-8)
    np.testing.assert_allclose(found[0], residual_batch_norm(3, beta, c, start), rtol=1e-10)


def test_gamma_functions_at_small_depth():
    c, a = 1 - 1 / math.pi, 1 / 0.3**2
    for depth in (1, 5, 60):
        logarithm = (
            math.lgamma(depth + (a + 0.5) / c)
            + math.lgamma((a + 1) / c)
            - math.lgamma((a + 0.5) / c)
            - math.lgamma(depth + (a + 1) / c)
        )
        assert residual_batch_norm(depth, 0.3) == pytest.approx(math.exp(logarithm), rel=1e-11)


def test_exponents_are_those_of_the_closed_form():
    for c, exponent in [(1 - 1 / math.pi, 0.733), (1.0, 0.5)]:
        far = residual_batch_norm([10**6, 2 * 10**6], 1.0, c)
        assert -math.log2(far[1] / far[0]) == pytest.approx(exponent, abs=1e-3)
    far = residual_batch_norm_variance([10**6, 2 * 10**6], 1.0)
    assert math.log2(far[1] / far[0]) == pytest.approx(1.467, abs=1e-3)


def test_paper_bookkeeping_gives_theorem_three():
    depth = np.array([1, 10, 50])
    np.testing.assert_allclose(residual_batch_norm_variance(depth, 0.3, c=1.0), 0.09 * depth + 1, rtol=1e-12)
    assert residual_batch_norm_paper(50, 0.1) == pytest.approx(1.414, abs=1e-3)
    ratio = residual_batch_norm(100_000, 0.05, c=1.0) / residual_batch_norm_paper(100_000, 0.05)
    assert ratio == pytest.approx(1, abs=5e-3)


def test_bounded_asymptote_is_as_far_from_the_product_as_printed():
    for beta, low, high in [(1.0, 0.105, 0.115), (0.1, 0.0003, 0.0009)]:
        gap = 1 - residual_batch_norm_bounded(50, beta) / residual_batch_norm(50, beta, c=1.0)
        assert low < gap < high


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_networks_follow_the_law(beta):
    """Frozen batch statistics, 12 blocks, R = mean off-diagonal over mean diagonal, four nets."""
    rng = np.random.default_rng(2)
    width, inputs, depth, ratios = 256, 128, 12, []
    for _ in range(4):
        h, weights, slopes = rng.standard_normal((width, inputs)), [], []
        for _ in range(depth):
            W = rng.standard_normal((width, width)) * math.sqrt(2 / width)
            normal = (h - h.mean(axis=1, keepdims=True)) / h.std(axis=1, keepdims=True)
            slopes.append((normal > 0) / h.std(axis=1, keepdims=True))
            weights.append(W)
            h = h + beta * (W @ np.maximum(normal, 0))
        g = np.repeat(rng.standard_normal((width, 1)), inputs, axis=1)
        for W, slope in zip(weights[::-1], slopes[::-1], strict=True):
            g = g + beta * slope * (W.T @ g)
        gram = g.T @ g
        ratios.append((gram.sum() / np.trace(gram) - 1) / (inputs - 1))
    assert np.mean(ratios) == pytest.approx(residual_batch_norm(depth, beta), abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: residual_batch_norm(0, 1.0), "depth counts layers"),
        (lambda: residual_batch_norm(3, -0.1), "beta must be at least 0"),
        (lambda: residual_batch_norm(3, 1.0, c=-1), "c must be at least 0"),
        (lambda: residual_batch_norm(3, 1.0, input_variance=0), "input_variance must be above 0"),
        (lambda: residual_batch_norm_paper(3, 0), "beta must be above 0"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_moment_beyond_float64_is_an_error():
    with pytest.raises(FloatingPointError, match="exceeds float64"):
        residual_batch_norm_variance(2000, 1.0, c=0.0)
