"""Pictures of traces draw the products, states and counts that their frames hold."""

import numpy as np
import pandas as pd
import pytest

import gradscope as gs
from gradscope import figures
from tests.figures.trace_frames import noise_frame, raster_frame, referenced_frame, run_frame


def matrix(axis) -> np.ndarray:
    (mesh,) = axis.collections
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def slow_picture(traces: list[np.ndarray]) -> np.ndarray:
    size = len(traces[0])
    total = np.zeros((size, size))
    for trace in traces:
        z = trace - trace.mean()
        variance = sum(z**2) / size
        for i in range(size):
            for j in range(size):
                total[i, j] += z[i] * z[j] / variance
    return np.abs(total / len(traces))


def test_a_single_draw_is_the_outer_product_of_the_first_seed():
    frame = noise_frame()
    axes = figures.covariance_picture(frame).axes
    trace = frame[(frame["family"] == "plain") & (frame["seed"] == 0)]["value"].to_numpy()
    np.testing.assert_allclose(matrix(axes[0]), slow_picture([trace]), atol=1e-12)
    assert axes[0].get_title("left") == "plain, 24 layers (seed 0)"


def test_the_mean_over_draws_is_the_mean_of_signed_products():
    frame = noise_frame()
    axes = figures.mean_covariance_picture(frame).axes
    for axis, family in zip(axes, ("plain", "residual"), strict=True):
        draws = [rows["value"].to_numpy() for _, rows in frame[frame["family"] == family].groupby("seed")]
        np.testing.assert_allclose(matrix(axis), slow_picture(draws), atol=1e-12)
    assert axes[1].get_title("left") == "residual, 50 layers (mean\nof 4 draws)"
    many = figures.mean_covariance_picture(noise_frame(100)).axes
    white, brown = matrix(many[0]), matrix(many[1])
    apart = ~np.eye(40, dtype=bool)
    assert white[apart].mean() < 0.15 and brown[apart].mean() > 0.3
    np.testing.assert_allclose(np.diag(white).mean(), 1)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_size_of_a_gradient_does_not_matter(scale):
    frame = noise_frame()
    expected = matrix(figures.covariance_picture(frame).axes[1])
    scaled = figures.covariance_picture(frame.assign(value=frame["value"] * scale))
    np.testing.assert_allclose(matrix(scaled.axes[1]), expected, rtol=1e-9)


def test_what_is_not_one_trace_is_refused_and_a_constant_one_left_empty():
    frame = noise_frame(1)
    with pytest.raises(ValueError, match=r"one value for each \['family', 'layers', 'x', 'seed'\]"):
        figures.covariance_picture(pd.concat([frame, frame]))
    assert not figures.covariance_picture(frame.assign(value=0.3)).axes[0].collections
    doubled = pd.concat([raster_frame(), raster_frame()])
    with pytest.raises(ValueError, match=r"one value for each \['family', 'layers', 'neuron', 'x'\]"):
        figures.raster(doubled)


def test_a_raster_shows_each_neurons_states_in_its_row():
    frame = raster_frame()
    axes = figures.raster(frame).axes
    shown = matrix(axes[1]).reshape(12, 30)
    rows = frame[frame["layers"] == 50].sort_values(["neuron", "x"])["value"].to_numpy().reshape(12, 30)
    np.testing.assert_array_equal(shown, rows)


def test_run_lengths_are_shares_of_the_runs_of_all_seeds():
    frame = run_frame()
    axis = figures.run_lengths(frame).axes[0]
    line = next(line for line in axis.lines if line.get_label() == "50 layers")
    rows = frame[(frame["family"] == "plain, batch norm") & (frame["layers"] == 50)]
    edges = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64)]
    counts = [rows[rows["length"].between(*edge)]["value"].sum() for edge in edges]
    assert list(line.get_xdata()) == [1, 2, 4, 8, 16, 32, 64]
    np.testing.assert_allclose(line.get_ydata(), np.array(counts) / sum(counts))


@pytest.mark.parametrize("against", ["lag", "distance"])
def test_noises_of_a_study_are_bands_behind_its_autocorrelations(against):
    frame = referenced_frame()
    (axis,) = figures.autocorrelation(frame, against=against).axes
    labels = axis.get_legend_handles_labels()[1]
    assert {"white noise, 95 % of traces", "brown noise, 95 % of traces", "4 layers", "24 layers"} == set(
        labels
    )
    band = next(c for c in axis.collections if c.get_label() == "brown noise, 95 % of traces")
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert low == pytest.approx(0.97**7 - 0.2) and high == pytest.approx(1.2)
    reach = band.get_paths()[0].get_extents().get_points()[1, 0]
    assert reach == pytest.approx(7 if against == "lag" else 28 / 255)
    assert against in axis.get_xlabel()
    with pytest.raises(ValueError, match="against is one of lag, distance"):
        figures.autocorrelation(frame, against="x")


def test_frames_of_studies_are_drawn_as_they_are():
    frame = gs.depth_traces("plain_mlp", [1, 3], seeds=[0, 1], points=16, lags=3, traces=True, width=8)
    assert [axis.get_title("left") for axis in figures.traces(frame).axes] == [
        "plain_mlp, 1 layer (seed 0)",
        "plain_mlp, 3 layers (seed 0)",
    ]
    assert (
        len(figures.covariance_picture(frame).axes) == len(figures.mean_covariance_picture(frame).axes) == 2
    )
    (axis,) = figures.autocorrelation(frame, against="distance").axes
    assert {"1 layer", "3 layers"} < set(axis.get_legend_handles_labels()[1])
    images, labels = gs.data.digits().train
    model = gs.nets.build("resnet", depth=8, channels=1, seed=0)
    frame = gs.input_trace((model, (images[:4], labels[:4])), between=(0, 1), points=12, lags=3)
    (axis,) = figures.autocorrelation(frame).axes
    assert {"along the path", "whole gradient"} < set(axis.get_legend_handles_labels()[1])
    (axis,) = figures.traces(frame).axes
    assert axis.get_title("left") == "one network, along the path"
