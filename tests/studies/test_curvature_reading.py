"""What is said about a frame of curvature, and that each sentence follows from its rows."""

import math

import pandas as pd
import pytest
from cases import CASES, batch_norm_net, classes
from shortcut_nets import zero_point

from gradscope.studies.curvature_reading import curvature_reading
from gradscope.studies.curvature_study import curvature_study

SMALL = {"probes": 2, "steps": 10, "k": 5}


def row(quantity, value, low=None, high=None, status="ok", **more):
    known = {
        "quantity": quantity,
        "value": value,
        "status": status,
        "reason": "said why" if status != "ok" else "",
    }
    return known | {"low": value if low is None else low, "high": value if high is None else high} | more


def said(*rows, examples=4000, batch_norm="none"):
    frame = pd.DataFrame(rows).assign(examples=examples, batch_norm=batch_norm)
    for column in ("definition", "block", "other", "batch_size", "draw", "n"):
        frame[column] = frame.get(column, pd.Series([None] * len(frame)))
    return curvature_reading(frame)


def condition(definition, value, **more):
    return row("condition_number", value, definition=definition, **more)


def test_the_stable_learning_rate_is_two_over_the_largest():
    assert "up to a learning rate of 0.5, which is 2 / lambda_max" in said(row("lambda_max", 4.0))


@pytest.mark.parametrize(
    ("product", "limit", "words"),
    [
        (1.0, 2.0, "below the edge, which a rate 2 times as large would reach"),
        (1.96, 2.0, "at the edge of stability"),
        (2.5, 2.0, "above the edge"),
        (2.5, 3.8, "below the edge, which a rate 1.52 times"),
        (1.5, 3.8 / 2.8, "above the edge"),
    ],
)
def test_a_rate_is_compared_with_its_own_limit(product, limit, words):
    rows = [row("lambda_max", 4.0), row("learning_rate_product", product), row("stability_limit", limit)]
    assert words in said(*rows)


def test_an_unconverged_maximum_is_a_lower_bound_and_no_all_clear():
    top = row("lambda_max", 4.0, 3.0, 5.0, status="unconverged")
    told = said(top, row("learning_rate_product", 1.0, status="unconverged"), row("stability_limit", 2.0))
    assert "has not converged: it is 4 or larger, and one lies in [3, 5]" in told
    assert "the eigenvalue may be larger" in told
    assert "Not converged are 1 of lambda_max, 1 of learning_rate_product" in told


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.9, "as around a saddle"),
        (0.2, "indefinite, but the upward curvature is larger"),
        (0.001, "nearly convex"),
    ],
)
def test_how_indefinite_it_is(ratio, words):
    rows = [row("lambda_max", 4.0), row("lambda_min", -4 * ratio), condition("negative_ratio", ratio)]
    assert words in said(*rows)


def test_a_convex_loss_is_called_so():
    rows = [row("lambda_max", 4.0), row("lambda_min", 0.5), condition("negative_ratio", 0.125)]
    assert "no direction found curves downwards" in said(*rows)


@pytest.mark.parametrize(
    ("ratio", "words"), [(8.0, "a few directions are set apart"), (1.3, "no direction is set far apart")]
)
def test_whether_directions_are_set_apart(ratio, words):
    assert words in said(row("lambda_max", 4.0), condition("top_ratio", ratio))


@pytest.mark.parametrize(
    ("participation", "words"),
    [
        (0.3, "cancel in the trace"),
        (4.0, "few directions carry the trace"),
        (300.0, "spread over many directions"),
    ],
)
def test_what_the_participation_ratio_says(participation, words):
    rows = [row("lambda_max", 4.0), row("participation_ratio", participation), row("parameters", 1000)]
    assert words in said(*rows)


def test_no_condition_number_is_given_but_its_bound():
    told = said(row("lambda_max", 4.0), condition("kappa_lower", 5800.0, high=math.inf))
    assert "at least 5.8e+03, which is rigorous" in told
    assert "The number itself is not given" in told


def test_all_eigenvalues_give_a_number_or_infinity():
    assert "the largest over the smallest in size is 12" in said(
        row("lambda_max", 4.0), condition("extreme_ratio", 12.0)
    )
    told = said(
        row("lambda_max", 4.0), condition("extreme_ratio", math.inf), condition("percentile_10", 30.0)
    )
    assert "the largest over it is infinite; over the 10th percentile of their sizes it is 30." in told
    told = said(
        row("lambda_max", 4.0), condition("extreme_ratio", math.inf), condition("percentile_10", math.inf)
    )
    assert (
        "the largest over it is infinite; over the 10th percentile of their sizes it is infinite, too."
        in told
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1.5, 2.5, "too large"),
        (0.98, 1.05, "will do"),
        (0.8, 2.0, "no bias that these 5 batches show for certain"),
    ],
)
def test_minibatches(low, high, words):
    ratio = row("lambda_max_ratio", (low + high) / 2, low, high, batch_size=16, n=5)
    assert words in said(row("lambda_max", 4.0), ratio)


def test_few_examples_are_a_warning():
    assert "That is few" in said(row("lambda_max", 4.0), examples=100)
    assert "That is few" not in said(row("lambda_max", 4.0), examples=4000)


def test_batch_statistics_are_told():
    assert "Batch statistics were differentiated through" in said(row("lambda_max", 4.0), batch_norm="train")


def test_rows_of_blocks_and_minibatches_are_not_taken_for_the_whole():
    told = said(
        row("lambda_max", 4.0),
        row("lambda_max", 9.0, block="head"),
        row("lambda_max", 8.0, batch_size=16, draw=0),
        row("trace", 9.0, block="head"),
    )
    assert told.startswith("The largest eigenvalue is 4 [4, 4].")


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (lambda: zero_point(4, 3, 2)[0], "as around a saddle"),
        (lambda: zero_point(3, 3, 2, layers=3)[0], "flat in every direction that was tried"),
        (CASES["plain"], "the largest over it is infinite"),
        (lambda: classes(batch_norm_net(calibrated=False), 4, batch_norm="train"), "Batch statistics"),
    ],
)
def test_frames_of_the_study_are_read(problem, words):
    told = curvature_reading(curvature_study(problem(), **SMALL))
    assert words in told
    assert "nan" not in told


def test_other_frames_are_refused():
    with pytest.raises(ValueError, match="with one row of lambda_max; this frame has 0"):
        curvature_reading(pd.DataFrame([row("trace", 1.0)]))
    with pytest.raises(ValueError, match="Filter it to one condition"):
        said(row("lambda_max", 1.0), row("lambda_max", 2.0))
