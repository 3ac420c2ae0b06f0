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


ZERO = {"low": -1e-14, "high": 1e-14}


def test_an_eigenvalue_of_zero_allows_no_learning_rate():
    """Of a loss that curves down only, lambda_max is rounding: 2 over it would be 2e16."""
    downwards = said(
        row("lambda_max", 1e-16, **ZERO), row("lambda_min", -2.0), condition("negative_ratio", 2e16)
    )
    assert "zero within its error" in downwards
    assert "downwards along its direction, as on a ridge or around a maximum" in downwards
    assert "learning rate" not in downwards
    assert "saddle" not in downwards
    flat = said(row("lambda_max", 1e-16, **ZERO), row("lambda_min", 0.0, **ZERO))
    assert "flat in every direction that was tried" in flat
    assert "no direction is seen to curve upwards" in said(row("lambda_max", 0.0))
    maximum = said(row("lambda_max", -1.0), row("lambda_min", -2.0))
    assert "no direction curves upwards, and the loss is curved as around a maximum" in maximum
    upwards = said(row("lambda_max", 1.0), row("lambda_min", 1e-16, **ZERO), condition("negative_ratio", 0.0))
    assert "no direction found curves downwards beyond that error" in upwards


def test_an_unconverged_eigenvalue_leaves_open_what_it_cannot_say():
    top = row("lambda_max", 4.0, 3.0, 5.0, status="unconverged")
    assert "up to a learning rate of at most 0.5" in said(top)
    edge = said(top, row("learning_rate_product", 2.0, status="unconverged"), row("stability_limit", 2.0))
    assert "the eigenvalue may be larger" in edge
    lost = row("lambda_max", -1.0, -4.0, 2.0, status="unconverged")
    assert "whether any direction curves upwards is open" in said(lost)
    lowest = row("lambda_min", 0.1, -0.2, 0.4, status="unconverged")
    assert "its sign is open" in said(row("lambda_max", 4.0), lowest, condition("negative_ratio", 0.02))


@pytest.mark.parametrize(
    ("value", "low", "high", "size", "words"),
    [
        (1 - 1e-16, 1 - 1e-16, 1 - 1e-16, 7, "few directions carry the trace"),
        (0.8, 0.5, 1.3, 1000, "one direction may carry the trace, or eigenvalues cancel"),
        (3e-31, 3e-31, 3e-31, 48, "zero to rounding: positive and negative eigenvalues cancel"),
        (5.0, 5.0, 5.0, 48, "spread over several directions"),
    ],
)
def test_a_participation_ratio_about_one_or_zero(value, low, high, size, words):
    rows = [row("lambda_max", 4.0), row("participation_ratio", value, low, high), row("parameters", size)]
    assert words in said(*rows)


def test_one_parameter_is_not_many_directions():
    told = said(row("lambda_max", 4.0), row("participation_ratio", 1.0), row("parameters", 1), examples=1)
    assert "directions" not in told
    assert "All of this is for this one example" in told


def test_a_run_through_the_whole_space_leaves_nothing_open():
    told = said(row("lambda_max", 4.0), condition("kappa_lower", 3.2, high=3.3))
    assert "in [3.2, 3.3]: the products spent span the whole space" in told
    assert "not given" not in told


def test_one_batch_has_no_bias_to_speak_of():
    one = row("lambda_max_ratio", 1.3, math.nan, math.nan, batch_size=16, n=1)
    told = said(row("lambda_max", 4.0), one)
    assert "On one batch of 16 examples lambda_max is 1.3 times that of all: more draws" in told
    everything = row("lambda_max_ratio", 1.0, batch_size=4000, n=1)
    assert "batch" not in said(row("lambda_max", 4.0), everything)


def test_sums_have_intervals_and_eigenvalues_bounds():
    wide = {"status": "unconverged"}
    told = said(
        row("lambda_max", 4.0, **wide),
        row("eigenvalue", 4.0, rank=1, **wide),
        row("eigenvalue", 3.0, rank=2, **wide),
        row("trace", 9.0, **wide),
    )
    assert "Not converged are 1 of lambda_max, 1 of eigenvalue: bounds of eigenvalues" in told
    assert "Less accurate than was asked are 1 of trace: their intervals" in told


def test_other_frames_are_refused():
    with pytest.raises(ValueError, match="with one row of lambda_max; this frame has 0"):
        curvature_reading(pd.DataFrame([row("trace", 1.0)]))
    with pytest.raises(ValueError, match="Filter it to one condition"):
        said(row("lambda_max", 1.0), row("lambda_max", 2.0))
