"""Active and co-active fractions against loops over pairs."""

import itertools
import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from gradscope.measures.activation import (
    activation_histogram,
    active_fraction,
    always_on_fraction,
    co_active_fraction,
    dead_fraction,
    switching,
)


def test_fractions_are_the_loops():
    active = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) > 0.4
    pairs = list(itertools.permutations(range(6), 2))
    both = sum(bool(active[i, u] and active[j, u]) for i, j in pairs for u in range(9))
    assert float(co_active_fraction(active)) == pytest.approx(both / (len(pairs) * 9), abs=1e-15)
    assert float(active_fraction(active)) == pytest.approx(sum(map(sum, active.tolist())) / 54, abs=1e-15)


def test_independent_units_are_co_active_a_quarter_of_the_time():
    active = torch.rand(200, 500, generator=torch.Generator().manual_seed(0)) > 0.5
    assert float(co_active_fraction(active)) == pytest.approx(0.25, abs=0.005)


def test_redundant_units_hide_behind_the_active_fraction():
    always_or_never = torch.zeros(5, 10, dtype=torch.bool)
    always_or_never[:, :5] = True
    assert active_fraction(always_or_never) == co_active_fraction(always_or_never) == 0.5


@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_one_example_is_refused(shape):
    with pytest.raises(ValueError, match=r"needs \[N, D\] with N >= 2"):
        co_active_fraction(torch.ones(shape, dtype=torch.bool))


def test_constant_units_are_the_loops():
    active = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    columns = active.T.tolist()
    assert float(dead_fraction(active)) == pytest.approx(sum(not any(c) for c in columns) / 40, abs=1e-15)
    assert float(always_on_fraction(active)) == pytest.approx(sum(all(c) for c in columns) / 40, abs=1e-15)
    assert 0 < float(dead_fraction(active)) < 1


def test_the_histogram_counts_units_by_how_often_they_are_active():
    generator = torch.Generator().manual_seed(0)
    active = torch.rand(10, 50, generator=generator) > torch.rand(50, generator=generator)
    fractions = [Fraction(sum(column), 10) for column in active.T.tolist()]
    for bins in (1, 3, 10):
        edges = [Fraction(k, bins) for k in range(bins + 1)]
        expected = [
            sum(low <= f < high or (f == 1 == high) for f in fractions) / 50 for low, high in pairwise(edges)
        ]
        torch.testing.assert_close(
            activation_histogram(active, bins), torch.tensor(expected, dtype=torch.float64)
        )


def test_fractions_of_counts_are_those_of_the_activity_itself():
    active = torch.rand(7, 30, generator=torch.Generator().manual_seed(1)) > 0.6
    whole = switching(active.long().sum(dim=0), 7)
    measures = (active_fraction, co_active_fraction, dead_fraction, always_on_fraction)
    assert whole == pytest.approx([float(measure(active)) for measure in measures], abs=1e-15)
    assert math.isnan(switching(torch.tensor([1, 0]), 1).co_active)
    with pytest.raises(ValueError, match=r"counts in 0 .. N"):
        switching(torch.tensor([3]), 2)


def test_bad_activity_is_refused():
    for measure in (dead_fraction, always_on_fraction, activation_histogram):
        with pytest.raises(ValueError, match=rf"{measure.__name__} needs one row per example"):
            measure(torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one bin"):
        activation_histogram(torch.ones(2, 2, dtype=torch.bool), bins=0)
