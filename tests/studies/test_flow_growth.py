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
    fitted = growth(points([9.0, 1.0, 2.0, 3.0, 4.0, -9.0], [7, 4, 4, 4, 4, 2]), layers=10)
    assert fitted.rate == pytest.approx(-1) and (fitted.fitted, fitted.layers) == (4, 10)
    assert fitted.reason == "fitted over 4 successive L outputs of shape 4, layer1 to layer4"


def test_where_shapes_alternate_the_commonest_is_fitted_at_its_places():
    fitted = growth(points([0.0, 5.0, 2.0, 5.0, 4.0, 5.0, 6.0], [4, 8, 4, 8, 4, 8, 4]))
    assert fitted.rate == pytest.approx(-1) and fitted.fitted == 4
    assert fitted.reason == "fitted over 4 L outputs of shape 4, layer0 to layer6"
    missing = growth(points([0.0, 1.0, 3.0, 4.0], [4] * 4, [0, 1, 3, 4]))
    assert missing.rate == pytest.approx(-1) and missing.high - missing.low < 1e-12


def test_of_several_kinds_of_modules_the_commonest_is_fitted():
    fitted = growth(points([0.0, 5.0, 2.0, 5.0, 4.0], [4] * 5, kinds="CBCBC"))
    assert fitted.rate == pytest.approx(-1) and fitted.high - fitted.low < 1e-12
    assert fitted.reason == "fitted over 3 C outputs of shape 4, layer0 to layer4"
    mixed = growth(points([0.0, 1.0, 2.0, 3.0], [4] * 4, kinds="ABAB"))
    assert mixed.reason == "fitted over 4 successive outputs of shape 4, layer0 to layer3"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_too_few_layers_have_no_rate(number):
    fitted = growth(points([1.0] * number, [4] * number))
    assert math.isnan(fitted.rate) and f"there are {number}" in fitted.reason and fitted.line == {}
