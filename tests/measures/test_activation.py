"""Active and co-active fractions against loops over pairs."""

import itertools

import pytest
import torch

from gradscope.measures.activation import active_fraction, co_active_fraction


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
