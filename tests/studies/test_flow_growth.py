"""The fitted growth rate against numpy, and which layers it is fitted to."""

import math

import numpy as np
import pytest
from scipy import stats

from gradscope.studies.flow.growth import Point, growth


def points(
    logs: list[float], shapes: list[int], orders: list[int] | None = None, kinds: str = ""
) -> list[Point]:
    orders = orders or list(range(len(logs)))
    kinds = kinds or "L" * len(logs)
    return [
        Point(f"layer{order}", kind, order, (shape,), log)
        for order, shape, log, kind in zip(orders, shapes, logs, kinds, strict=True)
    ]


def test_the_rate_is_the_least_squares_slope_towards_the_input():
    logs = [0.3, -0.2, 0.4, 1.0, 0.7]
    fitted = growth(points(logs, [4] * 5))
    assert fitted.rate == pytest.approx(-np.polyfit(range(5), logs, 1)[0])
    assert fitted.line.keys() == set(range(5))
    line = np.polyval(np.polyfit(range(5), logs, 1), range(5))
    assert [value for value, _, _ in fitted.line.values()] == pytest.approx(line)


def test_the_interval_is_that_of_a_random_walk():
    """The slope is a weighted sum of steps; their scatter, taken with those weights, gives its variance."""
    logs = [0.3, -0.2, 0.4, 1.0, 0.7, 0.9]
    fitted = growth(points(logs, [4] * 6))
    place = np.arange(6) - 2.5
    weights = [sum(place[k:]) / sum(place**2) for k in range(1, 6)]
    variance = np.var(np.diff(logs), ddof=1) * np.sum(np.square(weights))
    half = stats.t.ppf(0.975, 4) * math.sqrt(variance)
    assert (fitted.low, fitted.high) == pytest.approx((fitted.rate - half, fitted.rate + half))


def test_stem_and_head_are_left_out():
    fitted = growth(points([9.0, 1.0, 2.0, 3.0, 4.0, -9.0], [7, 4, 4, 4, 4, 2]))
    assert fitted.rate == pytest.approx(-1) and (fitted.fitted, fitted.span) == (4, 3)
    assert fitted.reason == "fitted over 4 L outputs of shape 4, layer1 to layer4"


def test_where_shapes_alternate_the_commonest_is_fitted():
    fitted = growth(points([0.0, 5.0, 2.0, 5.0, 4.0, 5.0, 6.0], [4, 8, 4, 8, 4, 8, 4]))
    assert fitted.rate == pytest.approx(-2) and (fitted.fitted, fitted.span) == (4, 3)
    assert fitted.reason == "fitted over 4 L outputs of shape 4, layer0 to layer6"


def test_an_output_without_number_keeps_its_place():
    fitted = growth(points([0.0, 1.0, math.nan, 3.0, 4.0], [4] * 5))
    assert fitted.rate == pytest.approx(-1) and fitted.high - fitted.low < 1e-12
    assert (fitted.fitted, fitted.span) == (4, 4) and fitted.line.keys() == {0, 1, 3, 4}


def test_of_several_kinds_of_modules_only_one_is_fitted():
    fitted = growth(points([0.0, 5.0, 2.0, 5.0, 4.0], [4] * 5, kinds="CBCBC"))
    assert fitted.rate == pytest.approx(-2) and fitted.high - fitted.low < 1e-12
    assert fitted.reason == "fitted over 3 C outputs of shape 4, layer0 to layer4"
    assert math.isnan(growth(points([0.0, 1.0, 2.0, 3.0], [4] * 4, kinds="ABAB")).rate)


def blocks(*names: str) -> list[Point]:
    """Names with their log-norms behind a colon, all of one kind and shape."""
    parts = [name.split(":") for name in names]
    return [Point(name, "L", order, (4,), float(log)) for order, (name, log) in enumerate(parts)]


def test_embeddings_side_by_side_and_places_within_a_block_are_no_sequence():
    """Like is fitted to like, at the place that runs last in a block: 2 for each block, whatever the others do."""
    net = [":".join(("wte", "90")), "wpe:-90"]
    for k in range(4):
        net += [f"h.{k}.ln_1:{k * k}", f"h.{k}.proj:{2 * k}"]
    fitted = growth(blocks(*net, "ln_f:55"))
    assert fitted.rate == pytest.approx(-2) and fitted.high - fitted.low < 1e-12
    assert fitted.reason == "fitted over 4 L outputs of shape 4, h.0.proj to h.3.proj" and fitted.span == 3


def test_stages_of_other_shapes_have_a_level_each_and_one_slope():
    """Least squares with a level for each stage, by numpy; the span leaves the jumps between stages out."""
    logs, stages = [1.0, 1.4, 1.9, 8.0, 8.7, -3.0, -2.6], [0, 0, 0, 1, 1, 2, 2]
    shapes = [(16, 4, 4), (32, 2, 2), (64, 1, 1)]
    found = [
        Point(f"layer{s}.{k}.conv2", "C", k, shapes[s], log)
        for k, (s, log) in enumerate(zip(stages, logs, strict=True))
    ]
    design = np.column_stack([np.arange(7), *(np.equal(stages, s) for s in range(3))]).astype(float)
    solved = np.linalg.lstsq(design, np.array(logs), rcond=None)[0]
    fitted = growth(found)
    assert fitted.rate == pytest.approx(-solved[0]) and (fitted.fitted, fitted.span) == (7, 4)
    assert [value for value, _, _ in fitted.line.values()] == pytest.approx(design @ solved)
    steps = np.array([0.4, 0.5, 0.7, 0.4])
    weights = (
        np.array([1, 1, 0.5, 0.5]) / 3
    )  # of each step in the slope: sums of (x - mean) over a spread of 3
    half = stats.t.ppf(0.975, 3) * math.sqrt(np.var(steps, ddof=1) * np.sum(np.square(weights)))
    assert fitted.high - fitted.rate == pytest.approx(half)
    assert "shapes 16x4x4, 32x2x2, 64x1x1 (a level for each)" in fitted.reason


def test_outputs_that_the_user_named_are_a_sequence():
    found = blocks("first:0", "second:1", "third:2")
    assert math.isnan(growth(found).rate) and "at=" in growth(found).reason
    assert growth(found, named=True).rate == pytest.approx(-1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_too_few_layers_have_no_rate(number):
    fitted = growth(points([1.0] * number, [4] * number))
    assert math.isnan(fitted.rate) and f"of {number} outputs are" in fitted.reason and fitted.line == {}
    assert (fitted.fitted, fitted.span) == (0, 0)
