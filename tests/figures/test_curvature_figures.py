"""Figures of curvature: what is drawn is what the frame says, and what is unsure, zero or left out is told apart."""

import numpy as np
import pandas as pd
import pytest

from gradscope import figures
from tests.figures import curvature_frames as made
from tests.figures.drawn import hollow, labels, line, notes, texts


@pytest.mark.parametrize(
    ("name", "panels"),
    [
        ("curvature_along_training", 3),
        ("block_curvature", 2),
        ("minibatch_curvature", 2),
        ("top_subspace", 2),
        ("eigenvalue_convergence", 2),
        ("learning_rate_grid", 1),
        ("condition_numbers", 1),
    ],
)
def test_one_panel_for_each_part(name, panels):
    frame, options = made.EXAMPLES[name]()
    assert len(getattr(figures, name)(frame, **options).axes) == panels


@pytest.mark.parametrize("name", sorted(made.EXAMPLES))
def test_no_label_is_cut_off(name):
    frame, options = made.EXAMPLES[name]()
    figure = getattr(figures, name)(frame, **options)
    figure.draw_without_rendering()
    for axis in figure.axes:
        for text in (axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label, *axis.texts):
            box = text.get_window_extent()
            if not text.get_text():
                continue
            assert box.x0 > -2 and box.y0 > -2, text
            assert box.x1 < figure.bbox.width + 2 and box.y1 < figure.bbox.height + 2, text


@pytest.mark.parametrize(
    "name", ["block_curvature", "learning_rate_grid", "top_subspace", "minibatch_curvature"]
)
def test_a_frame_of_other_quantities_is_refused(name):
    frame, options = made.EXAMPLES[name]()
    with pytest.raises(ValueError, match="draws the quantit"):
        getattr(figures, name)(frame.assign(quantity="something_else"), **options)


# --- curvature_along_training


def test_lines_are_means_over_seeds():
    frame = made.training_frame()
    axis, *others = figures.curvature_along_training(frame).axes
    assert len(others) == 5
    rows = frame[(frame["quantity"] == "lambda_max") & (frame["network"] == "2-shortcut")]
    np.testing.assert_allclose(line(axis, "2-shortcut").get_ydata(), rows.groupby("step")["value"].mean())
    assert [point[0] for point in hollow(axis)] == [100, 100]
    assert "mean of 3 seeds, 95 % interval" in notes(axis.figure)


def horizontal(axis) -> list[float]:
    """Heights of the dotted lines over the whole axis."""
    dotted = [one for one in axis.lines if one.get_linestyle() == ":" or one.get_marker() == "None"]
    return sorted({float(one.get_ydata()[0]) for one in dotted if list(one.get_xdata()) == [0, 1]})


def test_the_edge_of_stability_is_two_over_the_rate():
    top, _, product, *_ = figures.curvature_along_training(made.training_frame()).axes
    np.testing.assert_allclose(horizontal(top), [2 / 0.5, 2 / 0.25])
    assert horizontal(product) == [2.0]
    assert any("learning rate × largest = 2" in label for label in labels(product.figure))


def test_momentum_moves_the_edge():
    frame = made.training_frame(1)
    limit = frame[frame["quantity"] == "lambda_max"].assign(quantity="stability_limit", value=3.8)
    top, _, product, *_ = figures.curvature_along_training(pd.concat([frame, limit], ignore_index=True)).axes
    np.testing.assert_allclose(horizontal(top), [3.8 / 0.5, 3.8 / 0.25])
    assert horizontal(product) == [3.8]


def test_a_schedule_bends_the_edge():
    frame = made.training_frame(1).query("network == '2-shortcut'").copy()
    later = (frame["quantity"] == "learning_rate_product") & (frame["step"] >= 50)
    frame.loc[later, "value"] /= 10
    (axis,) = figures.curvature_along_training(frame, quantities=["lambda_max"]).axes
    (edge,) = [one for one in axis.lines if one.get_marker() == "None" and len(one.get_xdata()) == 21]
    np.testing.assert_allclose(edge.get_ydata(), np.where(edge.get_xdata() < 50, 4.0, 40.0))


def test_against_the_loss_a_ring_marks_the_start():
    frame = made.training_frame(1).query("network == '2-shortcut'")
    axis = figures.curvature_along_training(frame, x="loss", quantities=["percentile_10"]).axes[0]
    of = frame.assign(name=frame["definition"].where(frame["definition"] != "", frame["quantity"]))
    wide = of.pivot(index="step", columns="name", values="value")
    drawn = line(axis, "2-shortcut")
    np.testing.assert_allclose(drawn.get_xdata(), wide["loss"])
    np.testing.assert_allclose(drawn.get_ydata(), wide["percentile_10"])
    (ring,) = [one for one in axis.lines if one.get_markersize() == 10]
    assert ring.get_xdata()[0] == wide["loss"].iloc[0]
    assert "loss (per example)" in axis.get_xlabel() and "ring: the first step" in axis.get_xlabel()


def test_steps_without_a_loss_have_no_place_and_are_counted():
    frame = made.training_frame(1).query("network == '2-shortcut'")
    frame = frame[(frame["quantity"] != "loss") | (frame["step"] != 50)]
    figure = figures.curvature_along_training(frame, x="loss", quantities=["lambda_min"])
    assert len(line(figure.axes[0], "2-shortcut").get_xdata()) == 20
    assert "1 of 41 rows not drawn" in notes(figure)


def test_what_is_not_there_is_named():
    frame = made.training_frame(1)
    with pytest.raises(ValueError, match=r"draws \['top_ratio'\], but the frame has .*'negative_ratio'"):
        figures.curvature_along_training(frame, quantities=["lambda_max", "top_ratio"])
    with pytest.raises(ValueError, match='needs rows of quantity "loss"'):
        figures.curvature_along_training(frame[frame["quantity"] != "loss"], x="loss")
    with pytest.raises(ValueError, match="got 'epoch'"):
        figures.curvature_along_training(frame, x="epoch")


def test_flat_networks_are_counted_on_a_log_axis():
    frame = made.training_frame(1)
    frame.loc[(frame["quantity"] == "lambda_max") & (frame["step"] == 0), "value"] = 0.0
    assert "2 of 252 rows not drawn: not positive" in notes(figures.curvature_along_training(frame))


def test_blocks_get_a_line_each():
    frame = made.training_frame(1).query("network == '2-shortcut' and quantity == 'lambda_max'")
    frame = pd.concat(
        [frame.assign(quantity="block_lambda_max", block=name, value=k + 1.0) for k, name in enumerate("abc")]
    )
    (axis,) = figures.curvature_along_training(frame, hue="block", quantities=["block_lambda_max"]).axes
    assert [line(axis, name).get_ydata()[0] for name in "abc"] == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match=r"differ in \['block'\]"):
        figures.curvature_along_training(frame, quantities=["block_lambda_max"])


# --- minibatch_curvature


def test_ratios_are_means_over_batches_beside_all_examples():
    frame = made.minibatch_frame()
    axis = figures.minibatch_curvature(frame).axes[0]
    rows = frame[(frame["quantity"] == "lambda_max") & frame["draw"].notna()]
    expected = rows.groupby("batch_size")["value"].mean() / 4.0
    assert texts(axis) == [f"×{ratio:.3g}" for ratio in expected]
    assert line(axis, "all examples").get_ydata()[0] == 4.0
    batches = line(axis, "single batches")
    np.testing.assert_allclose(batches.get_ydata(), rows.loc[rows["batch_size"] == 16, "value"])
    assert (np.abs(np.log2(batches.get_xdata() / 16)) < 0.2).all()
    assert len(hollow(axis)) == 1


def test_ratios_of_the_frame_go_before_ours():
    frame = made.minibatch_frame()
    told = pd.DataFrame(
        {"quantity": "lambda_max_ratio", "batch_size": [16, 32], "draw": np.nan, "value": [2.5, np.nan]}
    )
    axis = figures.minibatch_curvature(pd.concat([frame, told], ignore_index=True)).axes[0]
    assert texts(axis) == ["×2.5"]


def test_ratios_are_taken_within_a_seed():
    frame = made.minibatch_frame().query("quantity == 'lambda_max'")
    both = pd.concat([frame.assign(seed=0), frame.assign(seed=1, value=10 * frame["value"])])
    one, two = (figures.minibatch_curvature(some).axes[0] for some in (frame, both))
    assert texts(one) == texts(two)


def test_networks_stand_side_by_side():
    frame = made.minibatch_frame()
    both = pd.concat([frame.assign(network="a"), frame.assign(network="b")])
    axis = figures.minibatch_curvature(both).axes[0]
    assert {"a: single batches", "b: all examples"} <= set(labels(axis.figure))
    a, b = (line(axis, f"{name}: single batches").get_xdata() for name in "ab")
    assert max(a) < 16 < min(b)


# --- top_subspace


def test_eigenvalues_shares_and_counts():
    frame = made.subspace_frame()
    values, shares = figures.top_subspace(frame).axes
    trained = frame[(frame["network"] == "trained") & (frame["quantity"] == "eigenvalue")]
    drawn = line(values, "trained (1st / 5th: 5)")[0]
    np.testing.assert_allclose(drawn.get_ydata(orig=False), trained["value"])
    assert values.get_yscale() == "log" and shares.get_ylim()[1] > 1
    random = line(shares, "of a random direction, 95 % band")
    np.testing.assert_allclose(random.get_ydata(), np.arange(1, 16) / 500)
    assert {"classes of the data: 10", "eigenvalues apart from the bulk: 9, 4"} <= set(labels(values.figure))


def test_negative_eigenvalues_are_drawn_on_a_linear_axis():
    frame = made.subspace_frame().query("quantity == 'eigenvalue'").copy()
    frame.loc[frame["rank"] == 15, "value"] = -0.1
    (axis,) = figures.top_subspace(frame).axes
    assert axis.get_yscale() == "linear" and "not drawn" not in notes(axis.figure)


# --- eigenvalue_convergence


def test_bounds_are_half_the_interval_beside_the_largest():
    frame = made.convergence_frame()
    values, bounds = figures.eigenvalue_convergence(frame).axes
    rows = frame[frame["rank"] == 1]
    np.testing.assert_allclose(line(values, "largest").get_ydata(), rows["value"])
    scale = rows["value"].iloc[-1]
    np.testing.assert_allclose(bounds.lines[0].get_ydata(), (rows["high"] - rows["low"]) / 2 / scale)
    open_ones = int((frame["status"] == "unconverged").sum())
    assert len(hollow(values)) == len(hollow(bounds)) == open_ones > 0
    assert {"2nd largest", "3rd largest", "smallest"} <= set(labels(values.figure))
    assert values.get_ylim()[0] > frame["low"].min()


def test_each_start_has_its_line_and_conditions_are_not_mixed():
    frame = made.convergence_frame()
    two = pd.concat([frame.assign(seed=0), frame.assign(seed=1, value=frame["value"] + 0.1)])
    axis = figures.eigenvalue_convergence(two).axes[0]
    assert len([one for one in axis.lines if len(one.get_xdata()) == 20]) >= 8
    assert labels(axis.figure).count("largest") == 1
    with pytest.raises(ValueError, match="share their seed, rank and products"):
        figures.eigenvalue_convergence(pd.concat([frame, frame]))


def test_bounds_that_are_unknown_are_counted():
    frame = made.convergence_frame()
    frame.loc[5, ["low", "high"]] = np.nan
    assert "1 of 80 rows not drawn: bound zero or unknown" in notes(figures.eigenvalue_convergence(frame))
