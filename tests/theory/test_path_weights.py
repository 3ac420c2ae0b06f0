"""Path weights against the sum over all sets of blocks, closed forms, and the printed peaks."""

import itertools
import math

import numpy as np
import pytest

from gradscope.theory import initialisation_path_lengths
from gradscope.theory.path_weights import (
    incoherent_path_weights,
    log_elementary_symmetric,
    path_weights,
    peak_path_fraction,
)


def by_enumeration(values):
    n = len(values)
    return [math.fsum(math.prod(some) for some in itertools.combinations(values, k)) for k in range(n + 1)]


@pytest.mark.parametrize("blocks", range(1, 11))
def test_symmetric_polynomials_are_sums_over_all_sets(blocks):
    values = np.random.default_rng(blocks).lognormal(sigma=2, size=blocks)
    np.testing.assert_allclose(np.exp(log_elementary_symmetric(values)), by_enumeration(values), rtol=1e-12)


def test_a_gain_of_zero_shuts_its_block():
    np.testing.assert_allclose(np.exp(log_elementary_symmetric([0.0, 3.0, 0.0])), [1, 3, 0, 0])
    assert path_weights([0.0, 0.0]).tolist() == incoherent_path_weights([0.0, 0.0]).tolist() == [1, 0, 0]


@pytest.mark.parametrize("gain", [1e-30, 0.05, 1.0, 20.0, 1e30])
def test_a_thousand_equal_gains_follow_the_binomial_coefficient(gain):
    """e_k = C(1000, k) beta^k leaves float64 on both sides; its logarithm is known exactly."""
    logs = log_elementary_symmetric(np.full(1000, gain))
    exact = [math.log(math.comb(1000, k)) + k * math.log(gain) for k in range(1001)]
    np.testing.assert_allclose(logs, exact, rtol=1e-12, atol=1e-11)
    weights = path_weights(np.full(1000, gain))
    assert np.isfinite(weights).all() and np.square(weights).sum() == pytest.approx(1)


def test_coherent_weights_are_the_polynomials_and_incoherent_ones_the_root_of_the_law_at_initialisation():
    gains = [0.5, 2.0, 0.1, 1.0]
    symmetric = np.array(by_enumeration(gains))
    np.testing.assert_allclose(path_weights(gains), symmetric / np.linalg.norm(symmetric), rtol=1e-13)
    squared = np.square(gains)
    law = initialisation_path_lengths(squared)
    np.testing.assert_allclose(np.square(incoherent_path_weights(squared)), law, rtol=1e-12)


@pytest.mark.parametrize("gain", [0.1, 0.5, 2.0])
def test_the_peak_tends_to_the_fraction_of_theorem_1(gain):
    blocks = 2000
    coherent = path_weights(np.full(blocks, gain)).argmax()
    incoherent = incoherent_path_weights(np.full(blocks, gain**2)).argmax()
    assert coherent / blocks == pytest.approx(peak_path_fraction(gain), abs=1 / blocks)
    assert incoherent / blocks == pytest.approx(peak_path_fraction(gain, coherent=False), abs=1 / blocks)


def test_a_hundred_blocks_at_gain_one_half_peak_at_33_and_at_20_if_paths_are_orthogonal():
    assert path_weights(np.full(100, 0.5)).argmax() == 33
    assert incoherent_path_weights(np.full(100, 0.25)).argmax() == 20


@pytest.mark.parametrize("gains", [[], [0.5, -0.1], [math.nan], [[0.5]], 0.5])
def test_gains_that_are_no_list_of_finite_numbers_are_refused(gains):
    for law in (log_elementary_symmetric, path_weights, incoherent_path_weights):
        with pytest.raises(ValueError, match="gains are one per block: a list of finite numbers >= 0"):
            law(gains)


def test_a_negative_gain_has_no_peak():
    with pytest.raises(ValueError, match="gain must be at least 0"):
        peak_path_fraction(-0.5)
