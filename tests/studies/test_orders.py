"""Random orders of blocks against counting, and against what is expected of them."""

import math

import pytest
import torch
from scipy.stats import kendalltau

from gradscope.studies.reordering.orders import (
    can_differ,
    exchanged,
    kendall_tau,
    reversed_within,
    shuffled_within,
    spread,
    swapped,
)

STAGES = [tuple(range(18 * stage, 18 * stage + 18)) for stage in range(3)]


@pytest.mark.parametrize("order", [(2, 0, 3, 1), (1, 0, 3, 2), (4, 2, 7, 5), (0, 2, 1)])
def test_kendall_tau_is_that_of_scipy(order):
    expected = kendalltau(range(len(order)), order).statistic
    assert kendall_tau(order) == pytest.approx(expected, abs=1e-15)


def test_kendall_tau_is_one_for_the_order_as_it_was_and_minus_one_for_its_reverse():
    for count in range(2, 60):
        assert (kendall_tau(range(count)), kendall_tau(range(count)[::-1])) == (1, -1)


def test_a_single_block_has_no_order():
    assert math.isnan(kendall_tau([0]))


def test_random_orders_within_stages():
    """Expected tau 1 - 3 C(18, 2) / C(54, 2) = .68, and never less than with every stage reversed, .36."""
    generator = torch.Generator().manual_seed(0)
    taus = torch.tensor([kendall_tau(shuffled_within(54, STAGES, generator)) for _ in range(500)])
    expected = 1 - 3 * math.comb(18, 2) / math.comb(54, 2)
    assert expected == pytest.approx(0.68, abs=0.001)
    assert abs(float(taus.mean()) - expected) < 4 * float(taus.std()) / math.sqrt(500)
    least = kendall_tau(reversed_within(54, STAGES))
    assert least == pytest.approx(1 - 2 * 3 * math.comb(18, 2) / math.comb(54, 2)) and least > 0.358
    assert float(taus.min()) > least


def test_one_swap_costs_what_its_distance_says():
    """A pair d places apart makes 2d - 1 inversions; d has mean (m + 1) / 3 among m blocks: tau .984 of 54."""
    generator = torch.Generator().manual_seed(1)
    taus = torch.tensor([kendall_tau(swapped(54, STAGES, 1, generator)) for _ in range(500)])
    expected = 1 - 2 * (2 * 19 / 3 - 1) / math.comb(54, 2)
    assert abs(float(taus.mean()) - expected) < 4 * float(taus.std()) / math.sqrt(500)
    assert kendall_tau(exchanged(54, [(3, 8)])) == pytest.approx(1 - 2 * 9 / math.comb(54, 2))


def test_swaps_stay_within_their_groups():
    generator = torch.Generator().manual_seed(2)
    groups = [(1, 2, 3), (5, 6)]
    for _ in range(50):
        order = swapped(8, groups, 7, generator)
        assert [order[i] for i in (0, 4, 7)] == [0, 4, 7]
        assert sorted(order[1:4]) == [1, 2, 3] and sorted(order[5:7]) == [5, 6]
    assert {swapped(3, [(0, 1, 2)], 1, generator) for _ in range(60)} == {(1, 0, 2), (0, 2, 1), (2, 1, 0)}


@pytest.mark.parametrize("groups", [[(0, 1, 2)], [(0, 1), (2, 3)], [(1, 2, 3), (5, 6)]])
def test_drawn_orders_always_differ_from_the_one_there_was(groups):
    generator = torch.Generator().manual_seed(3)
    unchanged = tuple(range(8))
    for swaps in (1, 2, 3, 4):
        drawn = [swapped(8, groups, swaps, generator) for _ in range(60)]
        assert unchanged not in drawn
        # Every exchange changes the parity, so nothing but whole draws may be thrown away.
        parities = {sum(a > b for i, a in enumerate(order) for b in order[i:]) % 2 for order in drawn}
        assert parities == {swaps % 2}
    shuffled = [shuffled_within(8, groups, generator) for _ in range(200)]
    assert unchanged not in shuffled
    assert len(set(shuffled)) == math.prod(math.factorial(len(group)) for group in groups) - 1


def test_two_exchanges_of_three_blocks_are_the_two_rotations():
    generator = torch.Generator().manual_seed(4)
    drawn = [swapped(3, [(0, 1, 2)], 2, generator) for _ in range(400)]
    assert set(drawn) == {(1, 2, 0), (2, 0, 1)}
    assert abs(drawn.count((1, 2, 0)) - 200) < 60


def test_a_single_pair_cannot_be_exchanged_twice():
    assert [can_differ([(2, 5)], swaps) for swaps in (1, 2, 3, 4)] == [True, False, True, False]
    assert can_differ([(0, 1), (2, 3)], 2) and can_differ([(0, 1, 2)], 2)
    generator = torch.Generator()
    with pytest.raises(ValueError, match="2 exchanges of the only pair of blocks undo each other"):
        swapped(6, [(2, 5)], 2, generator)
    with pytest.raises(ValueError, match="No group has two blocks"):
        shuffled_within(3, [(0,), (1,)], generator)


def test_reversing_within_groups():
    assert reversed_within(8, [(1, 2, 3), (5, 6)]) == (0, 3, 2, 1, 4, 6, 5, 7)


def test_up_to_eight_numbers_of_swaps():
    assert spread(54) == [1, 2, 3, 6, 10, 17, 31, 54]
    assert spread(2) == [1, 2]
