"""The figures of gradient flow, Jacobians and predictiveness draw what their frames say."""

import numpy as np
import pandas as pd
import pytest
import torch
from cases import CASES

from gradscope import figures
from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.gradient_flow import gradient_flow
from gradscope.studies.gradient_predictiveness import gradient_predictiveness
from gradscope.studies.jacobian_spectrum import jacobian_spectrum
from tests.figures.flow_frames import flow_frame, predictiveness_frame, singular_value_frame


def labels(figure) -> list[str]:
    return [label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]]


def test_points_are_means_over_seeds_and_the_line_is_the_frames():
    frame = flow_frame()
    (axis,) = figures.gradient_flow(frame).axes
    norms = frame[(frame["quantity"] == "output_gradient_log10_norm") & (frame["family"] == "plain")]
    expected = norms.groupby("depth")["value"].mean()
    np.testing.assert_allclose(axis.containers[0].lines[0].get_ydata(orig=False), expected.to_numpy())
    line = frame[(frame["quantity"] == "fitted_gradient_log10_norm") & (frame["family"] == "plain")]
    drawn = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 10]
    np.testing.assert_allclose(drawn[0], line.groupby("depth")["value"].mean().to_numpy())
    assert "fitted line, 95 % band" in labels(axis.figure)


def test_what_the_precision_lost_is_marked_and_not_counted_as_undrawn():
    frame = flow_frame(seeds=1)
    frame.loc[0, ["value", "status"]] = np.nan, "underflow"
    frame.loc[1, "status"] = "underflow"
    frame.loc[2, ["value", "status"]] = np.nan, "overflow"
    frame.loc[3, ["value", "status"]] = np.nan, "undefined"
    (axis,) = figures.gradient_flow(frame).axes
    marked = {
        (line.get_marker(), tuple(line.get_xdata()), tuple(line.get_ydata()))
        for line in axis.lines
        if line.get_markerfacecolor() == "none" and len(line.get_xdata())
    }
    assert marked == {("v", (1.0,), (frame.loc[1, "value"],)), ("v", (0.0,), (0.02,)), ("^", (2.0,), (0.98,))}
    assert "1 of 24 rows not drawn: not finite" in axis.get_xlabel()
    assert {"underflow", "overflow"} <= set(labels(axis.figure))


def test_frames_of_the_studies_are_drawn_as_they_are():
    net = build("plain_mlp", depth=6, width=8, seed=0)
    problem = Problem(net, (torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])))
    (axis,) = figures.gradient_flow(gradient_flow(problem)).axes
    assert axis.containers[0].lines[0].get_xdata().tolist() == list(range(1, 8))
    assert figures.jacobian_spectrum(jacobian_spectrum(problem)).axes
    frame = gradient_predictiveness(CASES["plain"]())
    axes = figures.gradient_predictiveness(frame).axes
    assert [len(axis.containers[0].lines[0].get_xdata()) for axis in axes] == [6, 5, 5]


def test_shares_are_of_all_singular_values():
    frame = singular_value_frame()
    (axis,) = figures.jacobian_spectrum(frame).axes
    for stairs in axis.patches[1:]:
        assert stairs.get_data().values.sum() == pytest.approx(1)
    half = pd.concat([frame, frame.assign(value=0.0)])
    (axis,) = figures.jacobian_spectrum(half).axes
    assert "480 of 960 rows not drawn: zero to rounding" in axis.get_xlabel()
    assert axis.patches[1].get_data().values.sum() == pytest.approx(0.5)


def test_the_band_runs_from_the_smallest_to_the_largest_step():
    frame = predictiveness_frame()
    axes = figures.gradient_predictiveness(frame, time="epoch").axes
    rows = frame[(frame["quantity"] == "gradient_difference") & (frame["family"] == "plain")]
    means = rows.groupby(["epoch", "step"])["value"].mean().unstack()
    low, high = (line.get_ydata() for line in axes[1].lines[:2])
    np.testing.assert_allclose(low, means.min(axis=1))
    np.testing.assert_allclose(high, means.max(axis=1))
    assert "of means over seeds" in axes[2].get_xlabel()
    with pytest.raises(ValueError, match="differ in"):
        figures.gradient_predictiveness(frame)


def test_a_frame_of_other_quantities_is_refused():
    frame = predictiveness_frame().assign(quantity="loss")
    with pytest.raises(ValueError, match="draws the quantities"):
        figures.gradient_predictiveness(frame)


def test_a_wide_band_does_not_set_the_axis():
    frame = flow_frame(seeds=1)
    points = frame.loc[frame["quantity"] == "output_gradient_log10_norm", "value"]
    line = frame["quantity"] == "fitted_gradient_log10_norm"
    narrow = frame.assign(low=frame["low"].where(~line, -4.0), high=frame["high"].where(~line, -1.0))
    assert "fitted line, 95 % band" in labels(figures.gradient_flow(narrow))
    wide = frame.assign(low=frame["low"].where(~line, -15.0), high=frame["high"].where(~line, 17.0))
    figure = figures.gradient_flow(wide)
    (axis,) = figure.axes
    bottom, top = axis.get_ylim()
    assert points.min() - 1 < bottom < points.min() and points.max() < top < points.max() + 1
    assert "fitted line, 95 % band (cut at the edges)" in labels(figure)


def test_a_quantity_of_parameters_is_that_of_all_of_a_layer():
    problem = CASES["plain"]()
    frame = gradient_flow(problem, learning_rate=0.1)
    (axis,) = figures.gradient_flow(frame, quantity="update_to_weight_ratio").axes
    together = frame[(frame["quantity"] == "update_to_weight_ratio") & (frame["parameter"] == "all")]
    drawn = axis.containers[0].lines[0].get_ydata(orig=False)
    np.testing.assert_allclose(drawn, together.sort_values("depth")["value"])
    assert axis.get_ylabel() == "update to weight ratio\n(dimensionless)"
    assert not any("fitted" in label for label in labels(axis.figure))
    single = frame[frame["parameter"] != "all"]
    with pytest.raises(ValueError, match="parameter"):
        figures.gradient_flow(single, quantity="update_to_weight_ratio")
