"""Holds, fails, undecided, not testable here: the interval against the criterion."""

import math

import numpy as np
import pytest
from scipy import stats

from gradscope.report import judged, verdict, verdict_table
from gradscope.report.verdicts import COLUMNS

NAN, INF = math.nan, math.inf
NEAR_ONE = [0.98, 0.99, 1.0, 1.01, 1.02]

TABLE = [
    # criterion, values, verdict, what the reason says
    (("between", {"low": 0.9, "high": 1.1}), NEAR_ONE, "holds", ""),
    (("between", {"low": 1.1, "high": 1.2}), NEAR_ONE, "fails", ""),
    (("between", {"low": 0.5, "high": 0.9}), NEAR_ONE, "fails", ""),
    (("between", {"low": 1.0, "high": 1.2}), NEAR_ONE, "undecided", "straddles"),
    (("between", {"low": 0.999, "high": 1.001}), NEAR_ONE, "undecided", "straddles"),
    (("at_least", {"low": 0.9}), NEAR_ONE, "holds", ""),
    (("at_least", {"low": 1.1}), NEAR_ONE, "fails", ""),
    (("at_least", {"low": 1.0}), NEAR_ONE, "undecided", "straddles"),
    (("at_most", {"high": 1.1}), NEAR_ONE, "holds", ""),
    (("at_most", {"high": 0.9}), NEAR_ONE, "fails", ""),
    # no spread between seeds: the interval is a point, and the edge belongs to the criterion
    (("at_most", {"high": 1.0}), [1.0] * 5, "holds", ""),
    (("at_most", {"high": 0.1}), [0.1] * 7, "holds", ""),
    (("at_most", {"high": 0.99}), [1.0] * 5, "fails", ""),
    # too few
    (("between", {"low": 0.9, "high": 1.1}), NEAR_ONE[:4], "undecided", "4 of at least 5 seeds"),
    (("between", {"low": 0.9, "high": 1.1}), [*NEAR_ONE[:4], NAN], "undecided", "1 of 5 seeds"),
    (("exact", {"tolerance": 0.0}), [0.0], "undecided", "1 of at least 5"),
    (("exact", {"target": 0.98, "tolerance": 1e-3, "least_seeds": 1}), [0.9803], "holds", ""),
    (("between", {"low": 0.9, "high": 1.1, "least_seeds": 1}), [1.0], "holds", ""),
    # not finite
    (("between", {"low": 0.9, "high": 1.1}), [*NEAR_ONE, NAN], "holds", "1 of 6 seeds"),
    (("between", {"low": 0.9, "high": 1.1}), [*NEAR_ONE, INF, -INF], "holds", "2 of 7 seeds"),
    (("between", {"low": 0.9, "high": 1.1}), [NAN] * 5, "undecided", "5 of 5 seeds"),
    # exact claims are about every seed
    (("exact", {"tolerance": 0.0}), [0.0] * 5, "holds", ""),
    (("exact", {"tolerance": 1e-12}), [0.0, 0.0, 0.0, 0.0, -2e-12], "fails", ""),
    (("exact", {"tolerance": 1e-12}), [1e-13] * 5, "holds", ""),
    (("exact", {"tolerance": 1e-12}), [0.0] * 5 + [NAN], "undecided", "1 of 6 seeds"),
    (("exact", {"tolerance": 1e-12}), [1.0] * 5 + [NAN], "fails", "1 of 6 seeds"),
    (("exact", {"target": -0.25, "tolerance": 1e-9}), [-0.25] * 5, "holds", ""),
]


@pytest.mark.parametrize(("criterion", "values", "expected", "said"), TABLE)
def test_verdicts(criterion, values, expected, said, claim_of):
    row = verdict(claim_of(criterion[0], **criterion[1]), values)
    assert row["verdict"] == expected
    assert said in row["reason"] if said else row["reason"] == ""
    assert row["n"] == np.isfinite(values).sum()


def test_the_interval_is_student_over_seeds(claim_of):
    row = verdict(claim_of(low=0.9, high=1.1), NEAR_ONE)
    low, high = stats.t.interval(0.95, 4, np.mean(NEAR_ONE), stats.sem(NEAR_ONE))
    assert (row["measured"], row["low"], row["high"]) == pytest.approx((1.0, low, high))


def test_an_exact_claim_reports_its_largest_deviation(claim_of):
    row = verdict(claim_of("exact", target=1.0, tolerance=0.1), [1.0, 1.05, 0.98, 1.0, 1.0])
    assert row["measured"] == pytest.approx(0.05) and math.isnan(row["low"])


def test_no_values_need_a_reason(claim_of):
    with pytest.raises(ValueError, match="needs a reason"):
        verdict(claim_of(low=0, high=1), [])
    row = verdict(claim_of(low=0, high=1), [], reason="the quick preset has no such network")
    assert row["verdict"] == "not testable here" and row["n"] == 0 and math.isnan(row["measured"])


def test_a_given_reason_stays_in_front(claim_of):
    assert verdict(claim_of(low=0, high=1), [0.5], reason="pilot").get("reason").startswith("pilot; finite")


def test_the_table_has_its_columns_even_when_empty(claim_of):
    assert list(verdict_table([]).columns) == COLUMNS
    row = verdict(claim_of(low=0, high=1), NEAR_ONE, settings="digits")
    assert list(verdict_table([row]).columns) == COLUMNS
    with pytest.raises(ValueError, match="missing"):
        verdict_table([{"claim_id": "S1"}])


def test_a_part_may_have_settings_of_its_own():
    measured = {("S1", "correlation"): [0.06] * 5, ("S1", "co-activation"): [0.25] * 5}
    rows = judged(measured, settings={"S1": "on all", "S1 co-activation": "on others"})
    assert list(rows["settings"]) == ["on all", "on others"]
