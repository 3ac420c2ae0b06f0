"""Paired tests against scipy, by hand, and against their own level."""

import itertools
import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from gradscope.measures.intervals import bootstrap_means
from gradscope.measures.paired import bootstrap_p_value, holm, mcnemar, paired_difference


@pytest.mark.parametrize(
    ("lost", "gained"), [(0, 0), (1, 0), (0, 5), (6, 1), (1, 6), (10, 10), (40, 25), (700, 300)]
)
def test_mcnemar_is_the_exact_binomial_test_of_scipy(lost, gained):
    expected = binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_by_hand():
    """6 lost and 1 gained: 2 (C(7,0) + C(7,1)) / 2^7 = 16/128."""
    assert mcnemar(6, 1) == 0.125


def test_mcnemar_of_very_many_changes_is_no_overflow():
    assert mcnemar(20_000, 0) == 0.0
    assert mcnemar(5_000, 5_000) == 1.0


def test_the_interval_of_a_difference_covers_it():
    """Tables of 60 examples, of which 8 in 100 are lost and 6 gained in truth, drawn 4000 times."""
    lost, gained, examples = 0.08, 0.06, 60
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(4000, examples, generator=generator, dtype=torch.float64)
    losses = (drawn < lost).sum(dim=1).tolist()
    gains = ((drawn >= lost) & (drawn < lost + gained)).sum(dim=1).tolist()
    covered = 0
    for some, others in zip(losses, gains, strict=True):
        _, low, high = paired_difference(some, others, examples)
        covered += low <= lost - gained <= high
    assert 0.94 < covered / 4000 < 0.98


@pytest.mark.parametrize(
    ("lost", "gained", "examples", "low", "high"),
    [(1, 7, 21, -0.517, -0.026), (6, 16, 161, -0.1240, -0.0054)],
    ids=["airway hyper-responsiveness", "complete response"],
)
def test_the_interval_is_the_published_one(lost, gained, examples, low, high):
    """Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33, on Bentur et al. and Cavo et al."""
    digits = 5e-4 if examples == 21 else 5e-5
    assert paired_difference(lost, gained, examples)[1:] == pytest.approx((low, high), abs=digits)


@pytest.mark.parametrize(("lost", "gained", "examples"), [(1, 7, 21), (5, 0, 10), (12, 3, 1000), (0, 0, 40)])
def test_the_limits_are_where_the_score_statistic_is_as_large_as_allowed(lost, gained, examples):
    """The likelihood given the difference is maximised on a grid, for a closed form could hide a slip."""

    def excess(difference: float) -> float:
        shares = torch.linspace(max(0, -difference), (1 - difference) / 2, 400_001, dtype=torch.float64)
        same = (1 - difference - 2 * shares).clamp(min=0)
        likelihood = torch.special.xlogy(torch.tensor(float(lost)), (shares + difference).clamp(min=0))
        likelihood += torch.special.xlogy(torch.tensor(float(gained)), shares)
        likelihood += torch.special.xlogy(torch.tensor(float(examples - lost - gained)), same)
        share = float(shares[likelihood.argmax()])
        variance = examples * (2 * share + difference - difference**2)
        return abs(lost - gained - examples * difference) - 1.959964 * math.sqrt(variance)

    value, low, high = paired_difference(lost, gained, examples)
    for limit, end in ((low, -0.99), (high, 0.99)):
        # Where nothing changed sides, the statistic is 0 at the difference found.
        assert brentq(excess, value + 1e-6 * end, end) == pytest.approx(limit, abs=1e-4)


def test_the_interval_covers_where_all_changes_go_one_way():
    """Exactly, over the binomial law: 2 or 4 lost of 1000 are the worst cases of intervals on a normal scale."""
    intervals = [paired_difference(lost, 0, 1000) for lost in range(40)]
    for expected, least in ((2, 0.98), (4, 0.93), (7, 0.94), (10, 0.94)):
        chances = binom.pmf(range(40), 1000, expected / 1000)
        held = [low <= expected / 1000 <= high for _, low, high in intervals]
        assert float(chances @ held) > least


@pytest.mark.parametrize("examples", [1, 2, 9])
def test_the_interval_holds_the_difference_for_every_table(examples):
    for lost, gained in itertools.product(range(examples + 1), repeat=2):
        if lost + gained <= examples:
            value, low, high = paired_difference(lost, gained, examples)
            assert value == (lost - gained) / examples
            assert -1 <= low <= value <= high <= 1 and low < high


def test_holm_by_hand():
    """m = 4: .01 x 4, .005 x ... sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, and .04 is raised to .06."""
    adjusted = holm(torch.tensor([0.01, 0.04, 0.03, 0.005], dtype=torch.float64))
    torch.testing.assert_close(adjusted, torch.tensor([0.03, 0.06, 0.06, 0.02], dtype=torch.float64))
    torch.testing.assert_close(holm(torch.tensor([0.6, 0.5])), torch.ones(2, dtype=torch.float64))
    assert holm(torch.empty(0)).tolist() == []


def test_holm_rejects_what_its_step_down_procedure_rejects():
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        p_values = torch.rand(6, generator=generator, dtype=torch.float64) ** 4
        rejected = set()
        for step, place in enumerate(p_values.argsort().tolist()):
            if p_values[place] > 0.05 / (6 - step):
                break
            rejected.add(place)
        assert {i for i, p in enumerate(holm(p_values).tolist()) if p <= 0.05} == rejected


def test_a_bootstrap_test_of_nothing_rejects_about_5_times_in_100():
    generator = torch.Generator().manual_seed(2)
    samples = torch.randn(50, 500, generator=generator, dtype=torch.float64)
    means = bootstrap_means(samples, 400, generator)
    values = samples.mean(dim=0).tolist()
    p_values = [bootstrap_p_value(v, m) for v, m in zip(values, means.T, strict=True)]
    assert 0.02 < sum(p <= 0.05 for p in p_values) / 500 < 0.09


@pytest.mark.parametrize(("examples", "told"), [(2, 0.51), (5, 0.16), (10, 0.10), (30, 0.07)])
def test_a_bootstrap_test_of_few_examples_rejects_too_often_as_documented(examples, told):
    generator = torch.Generator().manual_seed(3)
    samples = torch.randn(examples, 1500, generator=generator, dtype=torch.float64)
    means = bootstrap_means(samples, 400, generator)
    values = samples.mean(dim=0).tolist()
    p_values = [bootstrap_p_value(v, m) for v, m in zip(values, means.T, strict=True)]
    # Three binomial standard errors.
    assert sum(p <= 0.05 for p in p_values) / 1500 == pytest.approx(told, abs=0.04)
    assert f"{100 * told:.0f} " in (bootstrap_p_value.__doc__ or "")


def test_a_bootstrap_p_value_by_hand():
    """Two of four resamples stray from 0.3 as far as it is from 0: (1 + 2) / (4 + 1)."""
    assert bootstrap_p_value(0.3, torch.tensor([0.25, 0.7, -0.1, 0.3])) == 0.6
    assert bootstrap_p_value(0.0, torch.zeros(9)) == 1.0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: mcnemar(-1, 2), "-1 lost and 2 gained"),
        (lambda: paired_difference(3, 2, 4), "3 lost and 2 gained of 4"),
        (lambda: paired_difference(0, 0, 0), "of 0"),
        (lambda: holm(torch.tensor([0.2, float("nan")])), "vector of p-values"),
        (lambda: holm(torch.tensor([[0.2]])), "vector of p-values"),
        (lambda: holm(torch.tensor([1.2])), "vector of p-values"),
    ],
)
def test_what_is_no_count_or_probability_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
