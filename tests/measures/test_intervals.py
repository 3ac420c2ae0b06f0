"""Wilson's interval against scipy's; bootstrap means against a loop, and their coverage against its nominal value."""

import math

import pytest
import torch
from scipy.stats import binomtest

from gradscope.measures.intervals import bootstrap_means, percentile_interval, wilson


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 50), (45, 1000), (17, 34)]
)
def test_the_interval_is_scipys(successes, trials):
    value, low, high = wilson(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert value == successes / trials
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-7)
    assert 0 <= low <= value <= high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        wilson(successes, trials)


def test_means_are_those_of_the_drawn_rows(monkeypatch):
    monkeypatch.setattr("gradscope.measures.intervals._HELD", 3 * 7)
    values = torch.randn(7, 2, generator=generator(1), dtype=torch.float64)
    means = bootstrap_means(values, 10, generator())
    same = generator()
    expected = []
    for block in (3, 3, 3, 1):
        expected += [values[rows].mean(dim=0) for rows in torch.randint(7, (block, 7), generator=same)]
    torch.testing.assert_close(means, torch.stack(expected))


def test_columns_are_paired():
    """A constant shift between two columns has the same bootstrap difference in every resample."""
    first = torch.randn(20, generator=generator(2), dtype=torch.float64)
    means = bootstrap_means(torch.stack([first, first + 0.5], dim=1), 50, generator())
    torch.testing.assert_close(means[:, 1] - means[:, 0], torch.full((50,), 0.5, dtype=torch.float64))


def test_the_interval_covers_the_mean_about_95_times_in_100():
    drawn = generator(3)
    samples = torch.empty(60, 400, dtype=torch.float64).exponential_(1.0, generator=drawn)
    means = bootstrap_means(samples, 500, drawn)
    covered = 0
    for sample, column in zip(samples.T, means.T, strict=True):
        value, low, high = percentile_interval(float(sample.mean()), column)
        assert low <= value <= high
        covered += low <= 1.0 <= high
    # Three binomial standard errors of 0.011, and the bootstrap's known shortfall on a skew law.
    assert 0.89 < covered / 400 < 0.98


def test_equal_values_have_an_interval_of_no_width_that_holds_the_mean():
    values = torch.full((5, 1), 0.1, dtype=torch.float64)
    value, low, high = percentile_interval(0.1, bootstrap_means(values, 20, generator())[:, 0])
    assert low <= value <= high and high - low < 1e-15


def test_one_resample_has_no_spread():
    _, low, high = percentile_interval(1.0, torch.ones(1))
    assert math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize(("shape", "resamples"), [((3,), 5), ((0, 2), 5), ((3, 2), 0)])
def test_what_cannot_be_drawn_from_is_refused(shape, resamples):
    with pytest.raises(ValueError, match=f"and {resamples} resamples"):
        bootstrap_means(torch.ones(shape), resamples, generator())
