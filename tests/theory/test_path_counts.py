"""Path counts against enumeration and printed shares."""

import itertools
import math

import numpy as np
import pytest

from gradscope.theory import (
    binomial_path_counts,
    mass_between,
    path_counts,
    surviving_fraction,
)


def test_counts_are_those_of_enumerated_routes():
    blocks = [[1, 1], [0, 1], [1, 3], [2, 0, 1]]
    routes = [[power for power, ways in enumerate(block) for _ in range(ways)] for block in blocks]
    lengths = [sum(route) for route in itertools.product(*routes)]
    assert path_counts(blocks) == [lengths.count(k) for k in range(6)]


@pytest.mark.parametrize("branches", [1, 3])
def test_binomial_counts_are_the_product_of_equal_blocks(branches):
    assert binomial_path_counts(54, branches) == path_counts([[1, branches]] * 54)
    assert sum(binomial_path_counts(54, branches)) == (1 + branches) ** 54


def test_counts_stay_exact_beyond_floating_point():
    counts = path_counts([np.array([1, 1])] * 200)
    assert counts[100] == math.comb(200, 100)
    assert path_counts([]) == [1]


def test_fractal_and_nested_blocks():
    inner = [1, 2, 1]
    around = [1 + inner[0], *inner[1:]]
    assert path_counts([around]) == [2, 2, 1]
    fractal = path_counts([[0, 1], [0, 1]])
    fractal[1] += 1
    assert path_counts([fractal, fractal]) == [0, 0, 1, 2, 1]


def test_shares_of_54_blocks_are_the_printed_ones():
    counts = binomial_path_counts(54)
    assert mass_between(counts, 19, 35) == pytest.approx(0.9802, abs=5e-5)
    assert mass_between(counts, 20, 34) == pytest.approx(0.960, abs=5e-4)
    assert mass_between(counts, 5, 17) == pytest.approx(0.004537, abs=5e-7)
    assert mass_between(counts, 0, 54) == 1
    assert mass_between(binomial_path_counts(23), 5, 17) == pytest.approx(0.993, abs=5e-4)
    assert mass_between(np.array([0.25, 0.5, 0.25]), 1, 1) == 0.5


@pytest.mark.parametrize(
    ("deleted", "length", "printed"),
    [
        (1, 5, 0.907),
        (1, 17, 0.685),
        (10, 5, 0.343),
        (10, 11, 0.080),
        (10, 17, 0.015),
        (20, 5, 0.088),
        (20, 11, 0.003),
    ],
)
def test_surviving_fractions_are_the_printed_ones(deleted, length, printed):
    assert surviving_fraction(54, deleted, length) == pytest.approx(printed, abs=5.1e-4)


def test_surviving_paths_are_those_that_avoid_the_deleted_blocks():
    for length in range(7):
        paths = list(itertools.combinations(range(6), length))
        left = [path for path in paths if not {0, 1} & set(path)]
        assert surviving_fraction(6, 2, length) == pytest.approx(len(left) / len(paths))


def test_surviving_effective_paths_pooled():
    before = sum(math.comb(54, x) for x in range(5, 18))
    for deleted, printed in [(10, 0.019), (20, 0.00012)]:
        left = sum(surviving_fraction(54, deleted, x) * math.comb(54, x) for x in range(5, 18))
        assert left / before == pytest.approx(printed, rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: path_counts([[1, 1], [1, 0.5]]), "Block 1 needs a list of whole numbers"),
        (lambda: path_counts([[]]), "Block 0 needs"),
        (lambda: path_counts([[1, -1]]), "Block 0 needs"),
        (lambda: binomial_path_counts(0), "blocks is a whole number of at least 1"),
        (lambda: binomial_path_counts(3, 0), "branches is a whole number of at least 1"),
        (lambda: mass_between([1, 2, 1], 2, 1), "high is a whole number of at least 2"),
        (lambda: mass_between([1, 2, 1], 0, 3), "end at length 2"),
        (lambda: mass_between([0, 0], 0, 1), "one is positive"),
        (lambda: mass_between([1, float("nan")], 0, 1), "one is positive"),
        (lambda: surviving_fraction(5, 6, 1), "cannot delete 6"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
