"""The figure of reordered networks: what is a point, what the trend is made of."""

import numpy as np
import pandas as pd
import pytest

from gradscope import figures


def frame(values, taus, **columns):
    return pd.DataFrame({"value": values, "kendall_tau": taus, "statistics": "none"} | columns)


def trend(figure):
    (line,) = [line for line in figure.axes[0].lines if "median" in str(line.get_label())]
    return line


def test_the_trend_is_the_median_of_bins_with_three_orders_or_more():
    taus = [0.0, 0.01, 0.02, 0.5, 0.51, 0.97, 0.98, 0.99, 1.0]
    values = [0.9, 0.5, 0.7, 0.4, 0.4, 0.2, 0.1, 0.3, 0.0]
    figure = figures.reordering(frame(values, taus))
    np.testing.assert_allclose(trend(figure).get_xdata(), [0.01, 0.985])
    np.testing.assert_allclose(trend(figure).get_ydata(), [0.7, 0.15])
    band = figure.axes[0].collections[1].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(np.quantile([0.9, 0.5, 0.7], 0.975))
    assert len(figure.axes[0].collections[0].get_offsets()) == len(values)


def test_the_order_trained_in_stands_on_the_left():
    low, high = figures.reordering(frame([0.1, 0.2], [1.0, 0.5])).axes[0].get_xlim()
    assert low > high


def test_only_random_orders_are_points_unless_asked_otherwise():
    rows = frame([0.1, 0.2, 0.3], [1.0, 0.9, np.nan], intervention=["swaps", "neighbour swap", "skip"])
    count = lambda **options: len(figures.reordering(rows, **options).axes[0].collections[0].get_offsets())  # noqa: E731
    assert count() == 1
    assert count(interventions="neighbour swap") == 1
    assert count(interventions=("swaps", "neighbour swap")) == 2
    for options in ({}, {"interventions": "skip"}):
        told = figures.reordering(rows, **options).axes[0].get_xlabel()
        assert told.endswith("1 of 3 rows not drawn: no Kendall τ") and told.count("not drawn") == 1
    bad = figures.reordering(frame([np.nan, 0.2], [1.0, 0.9])).axes[0].get_xlabel()
    assert bad.endswith("1 of 2 rows not drawn: not finite")


def test_families_have_panels_of_their_own():
    rows = frame([0.1, 0.2], [1.0, 0.5], family=["pre", "post"])
    assert [axis.get_title(loc="left") for axis in figures.reordering(rows).axes] == ["pre", "post"]


def test_the_axis_is_labelled_with_the_metric_drawn():
    rows = frame([0.1, 0.2, 0.3], [1.0, 0.9, 0.8], quantity=["intact_kl", "kl", "kl"], unit="nat")
    for options in ({}, {"quantity": "kl"}):
        assert figures.reordering(rows, **options).axes[0].get_ylabel() == "kl (nat)"
    assert "intact network" in [line.get_label() for line in figures.reordering(rows).axes[0].lines]
    assert (
        figures.reordering(frame([0.1, 0.2], [1.0, 0.5])).axes[0].get_ylabel() == "error (share of examples)"
    )
    below = figures.reordering(frame([-1.0, 0.2], [1.0, 0.5], quantity="margin", unit="logit"))
    assert below.axes[0].get_ylim()[0] < -1
    several = frame([0.1, 0.2], [1.0, 0.5], quantity=["kl", "loss"])
    with pytest.raises(ValueError, match=r"one metric, but the frame has \['kl', 'loss'\]"):
        figures.reordering(several)
