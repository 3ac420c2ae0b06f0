"""Path lengths at initialisation against their definition, printed means and simulated chains."""

import itertools
import math

import numpy as np
import pytest

from gradscope.theory import batch_norm_gains, initialisation_path_lengths, mean_path_length


def test_initial_lengths_are_the_normalised_symmetric_polynomials():
    gains = [0.5, 2.0, 0.1, 1.0, 0.0]
    symmetric = [
        sum(math.prod(subset) for subset in itertools.combinations(gains, k)) for k in range(len(gains) + 1)
    ]
    law = initialisation_path_lengths(gains)
    np.testing.assert_allclose(law, np.array(symmetric) / sum(symmetric), rtol=1e-13)
    assert mean_path_length(gains) == pytest.approx(float(law @ np.arange(6)))


def test_equal_gains_give_a_binomial_law():
    np.testing.assert_allclose(initialisation_path_lengths(np.ones(54))[10], math.comb(54, 10) / 2**54)


@pytest.mark.parametrize("blocks", [1, 24, 100])
def test_linear_batch_norm_chain_has_the_harmonic_mean_length(blocks):
    harmonic = sum(1 / k for k in range(1, blocks + 2))
    assert mean_path_length(batch_norm_gains(blocks, branch_variance=1)) == pytest.approx(harmonic - 1)


def test_mean_lengths_of_24_blocks_are_the_printed_ones():
    assert mean_path_length(batch_norm_gains(24, branch_variance=1)) == pytest.approx(2.816, abs=5e-4)
    assert mean_path_length(batch_norm_gains(24)) == pytest.approx(3.489, abs=5e-4)


@pytest.mark.parametrize("linear", [True, False])
def test_batch_norm_chain_at_initialisation_follows_the_law(linear):
    """Squared norms by path length, from one backward recursion per length; frozen statistics, 12 blocks."""
    rng, width, inputs, blocks = np.random.default_rng(0), 160, 64, 12
    shares = np.zeros(blocks + 1)
    for _ in range(3):
        h, weights, slopes = rng.standard_normal((width, inputs)), [], []
        for _ in range(blocks):
            W = rng.standard_normal((width, width)) * math.sqrt((1 if linear else 2) / width)
            deviation = h.std(axis=1, keepdims=True)
            normal = (h - h.mean(axis=1, keepdims=True)) / deviation
            slopes.append((np.ones_like(h) if linear else normal > 0) / deviation)
            weights.append(W)
            h = h + W @ (normal if linear else np.maximum(normal, 0))
        graded = np.zeros((blocks + 1, width, inputs))
        graded[0] = rng.standard_normal((width, 1))
        for W, slope in zip(weights[::-1], slopes[::-1], strict=True):
            graded[1:] += slope * (W.T @ graded[:-1])
        shares += np.square(graded).sum(axis=(1, 2)) / np.square(graded).sum()
    gains = batch_norm_gains(blocks, branch_variance=1) if linear else batch_norm_gains(blocks)
    law = initialisation_path_lengths(gains)
    assert np.abs(shares / 3 - law).sum() / 2 < 0.05
    assert shares @ np.arange(blocks + 1) / 3 == pytest.approx(mean_path_length(gains), rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initialisation_path_lengths([]), "one per branch"),
        (lambda: mean_path_length([0.5, -0.1]), "one per branch"),
        (lambda: batch_norm_gains(3, -1), "branch_variance must be at least 0"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
