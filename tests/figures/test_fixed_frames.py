"""Frames of studies are drawn whole: layers from the input on, axes within a range, mixed conditions refused."""

import pandas as pd
import pytest
from torch import nn

import gradscope as gs
from gradscope import figures
from gradscope.data import line

TRACED = {"seeds": [0], "points": 16, "lags": 3, "traces": True, "width": 8}


def labels(axis) -> list[str]:
    return axis.get_legend_handles_labels()[1]


def test_gradient_correlation_is_drawn_as_it_is():
    images = gs.data.digits().train[0][:12].flatten(1)
    model = gs.nets.build("residual_mlp", depth=2, width=8, inputs=64, normalise="batch", seed=0)
    frame = gs.gradient_correlation((model, images))
    (axis,) = figures.correlation_against_depth(frame).axes
    assert {"as given", "skips cut", "theory"} == set(labels(axis))
    assert axis.get_xscale() == axis.get_yscale() == "linear"
    drawn = {c.get_label(): c.lines[0] for c in axis.containers}
    sites = frame[frame["quantity"] == "correlation_R"].sort_values("depth")
    assert drawn["as given"].get_xdata().tolist() == sites["depth"].tolist()
    assert drawn["as given"].get_ydata().tolist() == sites["value"].tolist()
    twin = frame[frame["quantity"] == "twin_correlation_R"].sort_values("depth")
    assert drawn["skips cut"].get_ydata().tolist() == twin["value"].tolist()
    assert [tick.get_text() for tick in axis.get_xticklabels()] == sites["site"].tolist()
    assert sites["site"].iloc[0] == "input"
    figure = axis.get_figure()
    figure.canvas.draw()
    assert axis.yaxis.label.get_window_extent().y1 <= figure.bbox.height
    (logarithmic,) = figures.correlation_against_depth(frame, x_scale="log").axes
    assert "depth 0, the input, is not on a log axis" in logarithmic.get_xlabel()


def test_many_layers_are_numbered():
    many = pd.DataFrame({"quantity": "correlation_R", "depth": range(30), "value": 0.5})
    frame = many.assign(site=[f"layer{depth}" for depth in many["depth"]], call=0)
    (axis,) = figures.correlation_against_depth(frame).axes
    assert "layer3" not in [tick.get_text() for tick in axis.get_xticklabels()]
    again = pd.concat([frame, frame.assign(call=1, value=0.7)])
    (axis,) = figures.correlation_against_depth(again).axes
    assert set(axis.containers[0].lines[0].get_ydata()) == {0.5}


def test_conditions_that_are_mixed_are_refused_by_the_names_of_the_frame():
    mixed = pd.concat(
        [gs.depth_traces("plain_mlp", [2], normalise=how, **TRACED) for how in ("mean", "batch")]
    )
    for draw in (figures.traces, figures.autocorrelation, figures.covariance_picture):
        with pytest.raises(ValueError, match=r"'family', 'depth', .* differ in \['normalise'") as refused:
            draw(mixed)
        assert "layers" not in str(refused.value)


def test_noises_are_panels_of_their_own():
    frame = gs.depth_traces("plain_mlp", [2], noise=True, **TRACED)
    titles = [axis.get_title("left") for axis in figures.traces(frame).axes]
    assert titles == ["plain_mlp, 2 layers", "white noise", "brown noise"]
    assert len(figures.autocorrelation(frame).axes) == 1


def test_a_path_between_samples_is_a_distance_and_norms_are_told():
    images, targets = gs.data.digits().train
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 2))
    frame = gs.input_trace((model, (images[:4], targets[:4])), between=(0, 1), points=12, lags=3)
    (axis,) = figures.traces(frame).axes
    assert axis.get_xlabel().startswith("distance along the path (units of the input)")
    assert "input_gradient_norm not drawn" in axis.get_xlabel()
    norms = frame[frame["quantity"] == "input_gradient_norm"]
    (axis,) = figures.traces(norms).axes
    assert "not drawn" not in axis.get_xlabel()
    assert axis.lines[0].get_ydata().tolist() == norms["value"].tolist()
    assert "distance along the path" in figures.covariance_picture(frame).axes[0].get_xlabel()
    scalar = gs.input_trace(nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1)), line(12), lags=3)
    (axis,) = figures.traces(scalar).axes
    assert axis.get_xlabel() == "input x (dimensionless)"


def test_the_label_of_one_row_of_traces_is_not_cut():
    figure = figures.traces(gs.depth_traces("plain_mlp", [1, 2], **TRACED))
    figure.canvas.draw()
    box = figure._supylabel.get_window_extent()
    assert box.y0 >= 0 and box.y1 <= figure.bbox.height
    single = figures.traces(gs.depth_traces("plain_mlp", [2], **TRACED))
    single.canvas.draw()
    box = single.axes[0].yaxis.label.get_window_extent()
    assert box.y0 >= 0 and box.y1 <= single.bbox.height


@pytest.mark.parametrize(("low", "high", "leaving"), [(-4.7, 5.8, True), (0.1, 0.5, False)])
def test_the_axis_of_a_correlation_keeps_to_its_range(low, high, leaving):
    frame = pd.DataFrame({"scheme": ["he", "as given"], "site": "input", "quantity": "correlation_R"})
    frame = frame.assign(value=[0.3, 0.2], low=[low, 0.1], high=[high, 1 + 1e-9])
    (axis,) = figures.initialisations(frame).axes
    assert ("1 interval leaves the range -1 to 1" in axis.get_xlabel()) == leaving
    assert axis.get_xlim()[0] >= -1.1 and axis.get_xlim()[1] <= 1.1
    (axis,) = figures.initialisations(
        frame.assign(quantity="gradient_growth_rate"), quantity="gradient_growth_rate"
    ).axes
    assert (axis.get_xlim()[1] > 5) == leaving
