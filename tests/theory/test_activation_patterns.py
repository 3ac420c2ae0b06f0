"""Patterns of units that are on or off, against closed forms, drawn units, and networks."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    always_off_fraction,
    biased_run_length,
    expected_run_length,
    plain_coactivation,
    plain_correlation,
)
from tests.theory.simulated import relu_network


def mean_run(rows):
    return rows.size / (len(rows) + (rows[:, 1:] != rows[:, :-1]).sum())


def test_always_off_has_its_closed_forms():
    assert always_off_fraction(0.0, 10) == pytest.approx(2.0**-10, rel=1e-9)
    for B in (1, 2, 7, 64):
        assert always_off_fraction(0.5, B) == pytest.approx(1 / (B + 1), rel=1e-8)
    for r in (0.1, 0.8, 0.999, 1 - 1e-6):
        assert always_off_fraction(r, 2) == pytest.approx(0.25 + math.asin(r) / 2 / math.pi, rel=1e-8)
        # Three: the orthant probability 1/8 + 3 asin(r) / (4 pi).
        assert always_off_fraction(r, 3) == pytest.approx(0.125 + 3 * math.asin(r) / 4 / math.pi, rel=1e-8)
    np.testing.assert_array_equal(always_off_fraction([[1.0]], 9), [[0.5]])


def test_deep_uncentred_networks_have_the_printed_share_of_constant_units():
    """Layer 30, B = 64 orthogonal inputs: 0.342; as many always on."""
    law = always_off_fraction(plain_correlation(30).input_correlation[-1], 64)
    assert law == pytest.approx(0.342, abs=5e-4)
    off, on = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        inputs = np.linalg.qr(rng.standard_normal((300, 64)))[0] * math.sqrt(300)
        active = relu_network(inputs, 30, rng)[-1].active
        off.append(1 - active.any(axis=1).mean())
        on.append(active.all(axis=1).mean())
    assert np.mean(off) == pytest.approx(law, abs=0.04)
    assert np.mean(on) == pytest.approx(law, abs=0.04)


def test_coactivation_starts_at_a_quarter_and_ends_at_a_half():
    shares = plain_coactivation(3000)
    assert shares[0] == 0.25
    assert (np.diff(shares) > 0).all()
    assert shares[-1] == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(plain_coactivation(3, 1.0), 0.5)


def test_run_lengths_of_coin_flips():
    rng = np.random.default_rng(0)
    fair = rng.random((4000, 40)) < 0.5
    assert expected_run_length(40) == pytest.approx(80 / 41)
    assert mean_run(fair) == pytest.approx(expected_run_length(40), rel=0.01)
    biased = rng.random((4000, 40)) < 0.1
    assert mean_run(biased) == pytest.approx(biased_run_length(40, 0.1), rel=0.02)
    assert biased_run_length(40, 0.5) == pytest.approx(expected_run_length(40))
    assert biased_run_length(40, 0.0) == expected_run_length(40, 1.0) == 40
    assert expected_run_length(40, -1.0) == pytest.approx(1)
    assert expected_run_length(1) == 1


def test_run_lengths_of_correlated_neighbours():
    """An autoregressive row of pre-activations, and one whose neighbours differ in how alike they are."""
    rng = np.random.default_rng(1)
    rho = np.repeat([0.9, 0.99], 10)
    h = [rng.standard_normal(20_000)]
    for r in rho:
        h.append(r * h[-1] + math.sqrt(1 - r**2) * rng.standard_normal(20_000))
    active = np.stack(h, axis=1) > 0
    assert mean_run(active) == pytest.approx(expected_run_length(21, rho), rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: always_off_fraction(-0.1, 4), r"must be in \[0, 1\]"),
        (lambda: always_off_fraction(1.1, 4), "rho is a correlation"),
        (lambda: always_off_fraction(0.5, 0), "examples is a whole number"),
        (lambda: plain_coactivation(0), "depth is a whole number"),
        (lambda: expected_run_length(0), "points is a whole number"),
        (lambda: expected_run_length(4, [0.1, 0.2]), "one for each of 3 neighbours"),
        (lambda: expected_run_length(4, 1.5), "rho holds correlations"),
        (lambda: biased_run_length(4, 1.5), "active is a chance"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
