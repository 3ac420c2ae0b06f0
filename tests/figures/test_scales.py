"""Tick labels are plain text a reader can say aloud."""

import pytest
from matplotlib.figure import Figure

from gradscope.figures.scales import logarithmic, plain_number, symmetric_logarithmic


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-0.5, "−0.5"),
        (0.001, "0.001"),
        (1e-7, "10⁻⁷"),
        (2e6, "2×10⁶"),
        (-1e9, "−10⁹"),
        (0.1 + 0.2, "0.3"),
        (1e-12 * 3, "3×10⁻¹²"),
    ],
)
def test_numbers_read_as_they_are_said(value, text):
    assert plain_number(value) == text


@pytest.mark.parametrize("limits", [(1e-9, 1.0), (2.0, 9.0), (1e-3, 1e5)])
def test_a_log_axis_has_between_two_and_ten_labels(limits):
    axis = Figure().subplots()
    axis.set_ylim(*limits)
    logarithmic(axis)
    low, high = axis.get_ylim()
    assert 2 <= sum(low <= tick <= high for tick in axis.get_yticks()) <= 10


@pytest.mark.parametrize(
    ("linear", "extent"), [(0.05, (-2.0, 40.0)), (1e-6, (-10.0, 1e4)), (1.0, (-0.2, 0.3))]
)
def test_a_symmetric_log_axis_has_few_ticks_and_zero(linear, extent):
    axis = Figure().subplots()
    symmetric_logarithmic(axis, linear, extent)
    ticks = list(axis.get_xticks())
    assert 0.0 in ticks and len(ticks) <= 12
