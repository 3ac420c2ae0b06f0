"""Wilson's interval against scipy's."""

import pytest
from scipy.stats import binomtest

from gradscope.measures.intervals import wilson


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
