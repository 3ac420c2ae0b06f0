"""Laws of path lengths against sums over all sets of blocks, permutations, draws and limits."""

import itertools
import math

import numpy as np
import pytest

from gradscope.theory import (
    batch_norm_gains,
    initialisation_path_lengths,
    linear_survival,
    path_counts,
    path_weights,
    poisson_path_lengths,
    scaled_path_lengths,
    stirling_path_counts,
    weighted_path_counts,
)


def cycles(permutation):
    seen, number = set(), 0
    for start in range(len(permutation)):
        number += start not in seen
        while start not in seen:
            seen.add(start)
            start = permutation[start]
    return number


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_stirling_numbers_count_the_cycles_of_permutations(blocks):
    found = [cycles(permutation) for permutation in itertools.permutations(range(blocks + 1))]
    assert stirling_path_counts(blocks) == [found.count(k + 1) for k in range(blocks + 1)]


def test_stirling_numbers_are_the_law_of_the_linear_batch_norm_chain():
    counts = stirling_path_counts(54)
    assert sum(counts) == math.factorial(55)
    shares = [count / math.factorial(55) for count in counts]
    law = initialisation_path_lengths(batch_norm_gains(54, branch_variance=1))
    np.testing.assert_allclose(shares, law, rtol=1e-10)
    mean = sum(k * share for k, share in enumerate(shares))
    assert mean == pytest.approx(sum(1 / j for j in range(1, 56)) - 1)


@pytest.mark.parametrize("coherent", [True, False])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_scaled_lengths_are_the_weights_of_equal_gains(exponent, coherent):
    gain = 0.7 * 12**-exponent
    law = scaled_path_lengths(12, 0.7, exponent, coherent=coherent)
    expected = (
        path_weights(np.full(12, gain)) if coherent else initialisation_path_lengths(np.full(12, gain**2))
    )
    np.testing.assert_allclose(law, expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize(("exponent", "coherent", "mean"), [(1.0, True, 1.5), (0.5, False, 1.5**2)])
def test_many_weak_branches_have_a_poisson_law(exponent, coherent, mean):
    distances = []
    for blocks in (100, 1000):
        law = scaled_path_lengths(blocks, 1.5, exponent, coherent=coherent)
        distances.append(np.abs(law - poisson_path_lengths(mean, blocks)).sum() / 2)
    assert distances[1] < 0.003 and distances[1] == pytest.approx(distances[0] / 10, rel=0.1)


def test_the_mean_grows_with_the_root_of_depth_at_exponent_one_half():
    means = [scaled_path_lengths(n, 1.0, 0.5) @ np.arange(n + 1) for n in (400, 1600)]
    assert means[1] / means[0] == pytest.approx(2, rel=0.03)
    still = [scaled_path_lengths(n, 1.0, 0.5, coherent=False) @ np.arange(n + 1) for n in (400, 1600)]
    assert still[1] == pytest.approx(still[0], rel=0.01) and still[1] < 1


def test_no_gain_leaves_the_shortest_path():
    assert scaled_path_lengths(3, 0.0).tolist() == [1, 0, 0, 0]
    assert poisson_path_lengths(0.0, 2).tolist() == [1, 0, 0]


def test_a_poisson_law_is_the_written_out_one():
    written = [math.exp(-2) * 2**k / math.factorial(k) for k in range(9)]
    np.testing.assert_allclose(poisson_path_lengths(2.0, 8), written, rtol=1e-13)


def test_weights_are_sums_of_products_over_all_sets_of_branches():
    scales = [0.5, -2.0, 0.1, 0.0]
    written = [
        math.fsum(math.prod(some) for some in itertools.combinations(scales, k))
        for k in range(len(scales) + 1)
    ]
    np.testing.assert_allclose(weighted_path_counts([[1, 1]] * 4, scales), written, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(weighted_path_counts([[1, 3, 2]], 0.5), [1, 1.5, 0.5])


def test_expected_counts_of_stochastic_depth_are_the_mean_over_all_realisations():
    kept = linear_survival(5)
    np.testing.assert_allclose(kept, [0.9, 0.8, 0.7, 0.6, 0.5])
    mean = np.zeros(6)
    for draw in itertools.product([0, 1], repeat=5):
        chance = math.prod(p if b else 1 - p for p, b in zip(kept, draw, strict=True))
        mean += chance * np.array(path_counts([[1, b] for b in draw]))
    np.testing.assert_allclose(weighted_path_counts([[1, 1]] * 5, kept), mean, rtol=1e-13)
    assert linear_survival(54).sum() == pytest.approx(0.75 * 54 - 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stirling_path_counts(0), "blocks is a whole number of at least 1"),
        (lambda: poisson_path_lengths(-1, 3), "mean must be at least 0"),
        (lambda: scaled_path_lengths(3, -1), "gain must be at least 0"),
        (lambda: linear_survival(3, 1.5), "last is a probability"),
        (lambda: weighted_path_counts([[1, 1]], [1, 2]), "one for all 1 blocks or one for each"),
        (lambda: weighted_path_counts([[1, 0.5]], 1), "Block 0 needs a list of whole numbers"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
