"""Path lengths of fresh ResNets against closed forms of the walk, printed means, and simulated networks."""

import math

import numpy as np
import pytest

from gradscope.theory import (
    batch_norm_gains,
    initialisation_path_lengths,
    mean_path_length,
    post_activation_path_lengths,
    reflected_walk,
    resnet_batch_norm_gains,
)

SEEN = 1 - 1 / math.pi


def normalised(states):
    deviation = states.std(axis=1, keepdims=True)
    return (states - states.mean(axis=1, keepdims=True)) / deviation, deviation


def simulated(stages, *, pre, width=96, inputs=320, seed=0):
    """Squared norms by path length of a dense network, statistics held fixed; and the stream's variances."""
    rng = np.random.default_rng(seed)
    states, tape, variances = rng.standard_normal((width, inputs)), [], []
    if not pre:
        first, _ = normalised(drawn(rng, width) @ states)
        states = np.maximum(first, 0)
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            variances.append(states.var(axis=1).mean())
            one, two = drawn(rng, width), drawn(rng, width)
            across = drawn(rng, width) if stage and not block else None
            if pre:
                inner, before = normalised(states)
                middle, between = normalised(one @ np.maximum(inner, 0))
                branch = two @ np.maximum(middle, 0)
                skip = states if across is None else across @ np.maximum(inner, 0)
                tape.append((inner > 0, before, one, middle > 0, between, two, across))
                states = skip + branch
            else:
                inner, before = normalised(one @ states)
                branch, between = normalised(two @ np.maximum(inner, 0))
                beside, over = (states, 1.0) if across is None else normalised(across @ states)
                states = np.maximum(beside + branch, 0)
                tape.append((states > 0, before, one, inner > 0, between, two, across, over))
    graded = np.zeros((sum(stages) + 1, width, inputs))
    graded[0] = rng.standard_normal((width, inputs))
    for step in tape[::-1]:
        graded = back_pre(graded, *step) if pre else back_post(graded, *step)
    if not pre:
        graded = graded * (first > 0)
    squares = np.square(graded).sum(axis=(1, 2))
    return squares / squares.sum(), np.array(variances)


def drawn(rng, width):
    return rng.standard_normal((width, width)) * math.sqrt(2 / width)


def back_pre(graded, mask, before, one, inner, between, two, across):
    branch = one.T @ (inner / between * (two.T @ graded)) * mask / before
    skip = graded if across is None else (across.T @ graded) * mask / before
    return added(skip, branch)


def back_post(graded, mask, before, one, inner, between, two, across, over):
    graded = graded * mask
    branch = one.T @ (inner / before * (two.T @ (graded / between)))
    return added(graded if across is None else across.T @ (graded / over), branch)


def added(skip, branch):
    total = skip.copy()
    total[1:] += branch[:-1]
    return total


def test_the_54_blocks_of_the_sheet_have_its_mean():
    assert mean_path_length(resnet_batch_norm_gains([18, 18, 18], 2.62)) == pytest.approx(11.76, abs=5e-3)


def test_gains_are_those_written_out():
    gains = resnet_batch_norm_gains([2, 3], 2.0)
    written = [1 / (SEEN * 2), 1 / (SEEN * (2 + SEEN)), 1 / SEEN, 1 / (2 * SEEN**2), 1 / (3 * SEEN**2)]
    np.testing.assert_allclose(gains, written)
    np.testing.assert_allclose(resnet_batch_norm_gains([5], 1.5), batch_norm_gains(5, SEEN, 1.5) / SEEN)


def test_channels_of_unequal_variance_have_their_mean_gain():
    each = [resnet_batch_norm_gains([3], v) for v in (0.5, 3.0)]
    np.testing.assert_allclose(resnet_batch_norm_gains([3], [0.5, 3.0]), np.mean(each, axis=0))


@pytest.mark.parametrize("stages", [[9], [4, 4]])
def test_fresh_pre_activation_networks_follow_the_law(stages):
    shares, _ = simulated(stages, pre=True)
    gains = resnet_batch_norm_gains(stages, 1.0)
    assert np.abs(shares - initialisation_path_lengths(gains)).sum() / 2 < 0.04
    assert shares @ np.arange(sum(stages) + 1) == pytest.approx(mean_path_length(gains), rel=0.04)


@pytest.mark.parametrize("stages", [[9], [4, 4]])
def test_fresh_post_activation_networks_follow_the_law(stages):
    shares, variances = simulated(stages, pre=False)
    law, lengths = post_activation_path_lengths(stages), np.arange(sum(stages) + 1)
    assert law.sum() == pytest.approx(1)
    assert np.abs(shares - law).sum() / 2 < 0.04
    assert shares @ lengths == pytest.approx(law @ lengths, rel=0.04)
    # Each state feeds the block above it; the last of a stage feeds the projection.
    walks = [
        reflected_walk(blocks - (stage > 0), 1.0 + (stage > 0))[0] for stage, blocks in enumerate(stages)
    ]
    predicted = np.concatenate(walks)[: sum(stages)]
    np.testing.assert_allclose(variances, predicted, rtol=0.06)


def test_leaving_the_memory_of_closed_units_out_is_further_from_the_network():
    """Independent choices with the share of open units at each block: the simple law that does not hold."""
    shares, _ = simulated([9], pre=False)
    variances, _ = reflected_walk(9)
    independent = mean_path_length(1 / (SEEN * variances[:9]))
    measured = shares @ np.arange(10)
    assert abs(post_activation_path_lengths([9]) @ np.arange(10) - measured) < abs(independent - measured) / 2


def test_variances_of_the_walk_are_those_of_spitzers_identity():
    """h_l is distributed as the maximum of l + 1 partial sums, whose moments Spitzer (1956) gives."""
    mean = [1 / math.sqrt(2 * math.pi * k) for k in range(1, 14)]
    variances, _ = reflected_walk(12)
    for length in range(1, 14):
        pairs = sum(mean[i] * mean[j] for i in range(length) for j in range(length) if i + j + 2 <= length)
        expected = length / 2 + pairs - sum(mean[:length]) ** 2
        assert variances[length - 1] == pytest.approx(expected, rel=1e-8)


def test_open_shares_are_those_of_the_arcsine_law():
    """From zero u_m = C(2m, m) / 4^m; in between the sum over the last time the unit was closed."""
    u = [math.comb(2 * m, m) / 4**m for m in range(20)]
    _, opened = reflected_walk(12)
    for start in range(13):
        for end in range(start, 13):
            expected = sum(u[m] * u[end + 1 - m] for m in range(start + 1))
            assert opened[start, end] == pytest.approx(expected, rel=1e-8)
    assert not np.tril(opened, -1).any()


@pytest.mark.parametrize("steps", [1, 4])
def test_the_walk_behind_a_projection_is_that_of_drawn_numbers(steps):
    rng = np.random.default_rng(0)
    walk = np.maximum(math.sqrt(2) * rng.standard_normal(200_000), 0)
    always = walk > 0
    for _ in range(steps):
        walk = np.maximum(walk + rng.standard_normal(len(walk)), 0)
        always &= walk > 0
    variances, opened = reflected_walk(steps, 2.0)
    assert variances[steps] == pytest.approx(walk.var(), rel=0.02)
    assert opened[0, steps] == pytest.approx(always.mean(), rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet_batch_norm_gains([]), "at least one stage"),
        (lambda: resnet_batch_norm_gains([3, 0]), "blocks_per_stage is a whole number of at least 1"),
        (lambda: resnet_batch_norm_gains([3], 0.0), "input_variance is positive and finite"),
        (lambda: resnet_batch_norm_gains([3], [1.0, math.nan]), "input_variance is positive and finite"),
        (lambda: post_activation_path_lengths([]), "at least one stage"),
        (lambda: reflected_walk(-1), "steps is a whole number of at least 0"),
        (lambda: reflected_walk(3, 0.0), "first_variance is positive"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
