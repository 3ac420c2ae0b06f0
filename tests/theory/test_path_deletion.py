"""What deletion leaves, against all sets of blocks and the printed shares."""

import itertools
import math

import pytest

from gradscope.theory import (
    path_counts,
    path_counts_after_deletion,
    paths_by_deleted_blocks,
    surviving_fraction,
    surviving_share,
)


@pytest.mark.parametrize(("deleted", "printed", "digits"), [(10, 0.019, 3), (20, 0.00012, 5)])
def test_the_effective_paths_of_54_blocks_lose_what_is_printed(deleted, printed, digits):
    assert round(surviving_share(54, deleted, 5, 17), digits) == printed


def test_a_band_of_one_length_is_the_fraction_of_that_length():
    for length in range(7):
        assert surviving_share(6, 2, length, length) == pytest.approx(surviving_fraction(6, 2, length))
    assert surviving_share(54, 10, 0, 54) == 2.0**-10


@pytest.mark.parametrize("length", range(7))
def test_paths_are_told_by_the_deleted_blocks_they_cross(length):
    paths = list(itertools.combinations(range(6), length))
    crossed = [len({0, 1} & set(path)) for path in paths]
    counts = paths_by_deleted_blocks(6, 2, length)
    assert counts == [crossed.count(j) for j in range(3)]


def test_vandermonde_adds_them_up_to_all_paths():
    for length in range(55):
        assert sum(paths_by_deleted_blocks(54, 10, length)) == math.comb(54, length)


@pytest.mark.parametrize("deleted", range(5))
def test_expected_counts_are_the_mean_over_all_sets_of_blocks(deleted):
    blocks = [[1, 1], [1, 3], [0, 1], [2, 0, 1]]
    sets = list(itertools.combinations(range(4), deleted))
    mean = [0.0] * 6
    for closed in sets:
        left = path_counts([block[:1] if i in closed else block for i, block in enumerate(blocks)])
        for k, count in enumerate(left):
            mean[k] += count / len(sets)
    assert path_counts_after_deletion(blocks, deleted) == pytest.approx(mean)


def test_equal_blocks_are_left_with_the_binomial_of_the_rest():
    counts = path_counts_after_deletion([[1, 1]] * 30, 10)
    assert counts[:21] == [math.comb(20, k) for k in range(21)] and not any(counts[21:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surviving_share(5, 6, 0, 1), "Of 5 blocks one cannot delete 6"),
        (lambda: surviving_share(5, 2, 3, 2), "high is a whole number of at least 3"),
        (lambda: surviving_share(5, 2, 3, 6), "no path longer than 5"),
        (lambda: paths_by_deleted_blocks(5, 2, 6), "no path longer than 5"),
        (lambda: path_counts_after_deletion([[1, 1]], 2), "Of 1 blocks one cannot delete 2"),
        (lambda: path_counts_after_deletion([[]], 0), "Block 0 needs"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
