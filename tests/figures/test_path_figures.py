"""Figures of path lengths: what is drawn is what the frame says, and what is left out is told."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradscope import figures
from gradscope.figures.heat import AROUND_ZERO, colour_label, two_digits
from tests.figures import path_frames as made


def labels(figure: Figure) -> list[str]:
    return [label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]]


def notes(figure: Figure) -> str:
    return " ".join(axis.get_xlabel() for axis in figure.axes)


def line(axis, label: str):
    handles, names = axis.get_legend_handles_labels()
    return handles[names.index(label)]


def cells_of(axis) -> np.ndarray:
    mesh = axis.collections[0]
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


@pytest.mark.parametrize(
    ("name", "panels"),
    [
        ("path_triptych", 4),
        ("spectrum_over_training", 1),
        ("bigraded_spectrum", 1),
        ("block_participation", 2),
        ("ensemble_depth", 2),
        ("path_cost", 2),
        ("deletion_survival", 1),
    ],
)
def test_one_panel_for_each_part(name, panels):
    frame, options = made.EXAMPLES[name]()
    assert len(getattr(figures, name)(frame, **options).axes) == panels


# --- path_triptych


def test_the_triptych_holds_counts_norms_and_curves():
    frame = made.triptych_frame(seeds=1).drop(columns="seed").query("state == 'trained'")
    how_many, one_path, product = figures.path_triptych(frame).axes
    of = {name: rows["value"].to_numpy() for name, rows in frame.groupby("quantity")}
    np.testing.assert_allclose([bar.get_height() for bar in how_many.patches], of["path_count"])
    np.testing.assert_allclose(
        line(one_path, "trained, mean over sampled paths").get_ydata(), of["mean_path_norm"]
    )
    rms = line(one_path, "trained, root mean square over all paths")
    np.testing.assert_allclose(rms.get_ydata(), of["rms_path_norm"])
    assert rms.get_markerfacecolor() == "white" and one_path.get_yscale() == "log"
    for label, quantity in {
        "signed share (sums to 1)": "signed_share",
        "norm of that length's gradient": "coherent_norm_share",
        "paths × root mean square norm": "veit_product_share",
        "paths × sampled mean norm (Veit)": "sampled_veit_product_share",
    }.items():
        np.testing.assert_allclose(line(product, label).get_ydata(), of[quantity])


def test_the_triptych_takes_shares_of_counts_where_there_are_no_counts():
    frame = made.triptych_frame(1).replace({"quantity": {"path_count": "path_count_share"}})
    assert figures.path_triptych(frame).axes[0].get_ylabel() == "paths (share of all)"


def test_norms_that_are_zero_are_counted_and_others_still_drawn():
    frame = made.triptych_frame(seeds=1).drop(columns="seed")
    frame.loc[(frame["quantity"] == "mean_path_norm") & (frame["path_length"] == 18), "value"] = 0.0
    figure = figures.path_triptych(frame)
    assert "2 of 266 rows not drawn: not positive, so not on the log axis of b" in notes(figure)
    assert len(line(figure.axes[1], "fresh, mean over sampled paths").get_ydata()) == 18


def test_an_interval_that_reaches_below_zero_ends_at_the_bottom_of_the_log_axis():
    frame = made.triptych_frame(seeds=1).drop(columns="seed").query("state == 'fresh'")
    frame.loc[frame["quantity"] == "mean_path_norm", "low"] = -1.0
    axis = figures.path_triptych(frame).axes[1]
    bands = [band for band in axis.collections if len(band.get_paths())]
    assert all((path.vertices[:, 1] > 0).all() for band in bands for path in band.get_paths())


# --- spectrum_over_training


def test_a_column_of_cells_for_each_step_and_their_mean_over_them():
    frame = made.training_frame(seeds=1).drop(columns="seed")
    axis = figures.spectrum_over_training(frame).axes[0]
    expected = frame.pivot(index="path_length", columns="step", values="value")
    np.testing.assert_allclose(cells_of(axis), expected)
    first = line(axis, "mean path length")
    sums = expected.sum()
    kept = (sums - 1).abs() < 1e-3
    means = (expected.mul(expected.index, axis=0).sum() / sums)[kept]
    np.testing.assert_allclose(first.get_ydata(), means)
    assert [text.get_text() for text in axis.get_xticklabels()] == [
        "0", "1", "3", "10", "30", "100", "300", "1000", "3000",
    ]  # fmt: skip
    assert "negative" in labels(axis.figure)


def test_the_mean_of_the_frame_goes_before_that_of_its_shares():
    frame = made.training_frame()
    steps = sorted(frame["step"].unique())
    given = pd.DataFrame(
        [("mean_path_length", seed, step, 3.0 + seed) for step in steps for seed in range(3)],
        columns=["quantity", "seed", "step", "value"],
    )
    axis = figures.spectrum_over_training(pd.concat([frame, given], ignore_index=True)).axes[0]
    assert set(line(axis, "mean path length").get_ydata()) == {4.0}
    assert "dashed: mean of 3 seeds, 95 % interval" in axis.get_xlabel()


def test_shares_of_some_lengths_only_have_no_mean():
    frame = made.training_frame(seeds=1).query("path_length < 3")
    axis = figures.spectrum_over_training(frame).axes[0]
    assert len(line(axis, "mean path length").get_ydata()) == 0


def test_a_length_missing_at_one_step_is_crossed_out():
    frame = made.training_frame(seeds=1).drop(columns="seed")
    frame = frame[(frame["step"] != 10) | (frame["path_length"] != 5)]
    axis = figures.spectrum_over_training(frame).axes[0]
    assert np.isnan(cells_of(axis)[5, 3]) and np.isnan(cells_of(axis)).sum() == 1
    assert "no value" in labels(axis.figure)


def test_epochs_are_taken_where_there_are_no_steps():
    frame = made.training_frame(1).rename(columns={"step": "epoch"})
    assert "epoch of training (number)" in notes(figures.spectrum_over_training(frame))
    with pytest.raises(ValueError, match=r"lacks \['round'\]"):
        figures.spectrum_over_training(frame, time="round")


# --- bigraded_spectrum


def test_cells_of_two_gradings_are_where_the_frame_says():
    frame = made.bigraded_frame()
    axis = figures.bigraded_spectrum(frame).axes[0]
    expected = frame.pivot(index="length_mlp", columns="length_attention", values="value")
    np.testing.assert_allclose(cells_of(axis), expected)
    assert len(axis.texts) == 49 and "−0.027" in [text.get_text() for text in axis.texts]
    hatched = [patch.get_xy() for patch in axis.patches]
    assert hatched == [(2.5, 0.5), (3.5, 0.5)]
    assert axis.get_xlabel().startswith("attention branches crossed (number)")


def test_many_cells_bear_no_numbers():
    rows = [(i, j, 0.01) for i in range(10) for j in range(10)]
    frame = pd.DataFrame(rows, columns=["length_stage_1", "length_stage_2", "value"])
    assert not figures.bigraded_spectrum(frame).axes[0].texts


def test_two_gradings_are_two():
    frame = made.bigraded_frame()
    with pytest.raises(ValueError, match="but the frame has 1, mlp: columns named length_<kind>"):
        figures.bigraded_spectrum(frame.drop(columns="length_attention"))
    with pytest.raises(
        ValueError, match=r"two of the kinds attention, mlp, stage.*kinds=\('attention', 'mlp'\)"
    ):
        figures.bigraded_spectrum(frame.assign(length_stage=0))


def test_kinds_that_are_not_drawn_are_summed_over():
    frame = made.bigraded_frame()
    split = pd.concat(
        [frame.assign(length_stage=k, value=frame["value"] * share) for k, share in ((0, 0.25), (1, 0.75))]
    )
    drawn = figures.bigraded_spectrum(split, kinds=("attention", "mlp")).axes[0]
    np.testing.assert_allclose(cells_of(drawn), cells_of(figures.bigraded_spectrum(frame).axes[0]))
    with pytest.raises(ValueError, match="coherent_norm does not add up"):
        figures.bigraded_spectrum(
            split.assign(quantity="coherent_norm"), quantity="coherent_norm", kinds=("attention", "mlp")
        )


def test_a_triptych_needs_norms_of_single_paths():
    frame = made.triptych_frame()
    with pytest.raises(ValueError, match="draws or sampled above 0"):
        figures.path_triptych(frame[~frame["quantity"].isin(["rms_path_norm", "mean_path_norm"])])


def test_zero_is_white_and_both_ends_get_darker_in_grey():
    colours = AROUND_ZERO(np.linspace(0, 1, 256))[:, :3]
    grey = colours @ [0.299, 0.587, 0.114]
    lightest = int(grey.argmax())
    assert lightest == pytest.approx(85, abs=1) and grey[lightest] > 0.99
    assert (np.diff(grey[: lightest + 1]) > 0).all() and (np.diff(grey[lightest:]) < 0).all()


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.12"), (-0.0273, "−0.027"), (0.0004, "0"), (0.0, "0"), (12.3, "12")]
)
def test_numbers_in_cells_are_short(value, text):
    assert two_digits(value) == text


def test_colour_bars_name_their_unit():
    rows = pd.DataFrame({"unit": ["loss per input"], "value": [1.0]})
    assert colour_label(rows, "coherent_norm") == "coherent norm (loss per input)"
    assert colour_label(rows.drop(columns="unit"), "coherence") == "coherence (1)"


# --- block_participation


def test_participation_marks_kinds_and_separates_stages():
    first, second = figures.block_participation(made.participation_frame()).axes
    hollow, filled = line(first, "projection")[0], line(first, "identity")[0]
    assert list(hollow.get_xdata()) == [6, 12] and hollow.get_markerfacecolor() == "white"
    assert len(filled.get_xdata()) == 16 and filled.get_markerfacecolor() != "white"
    borders = [
        x for x in (one.get_xdata() for one in second.get_lines()) if list(x) in ([5.5] * 2, [11.5] * 2)
    ]
    assert len(borders) == 2
    assert min(line(second, "identity")[0].get_ydata()) < 0


def several_branches() -> pd.DataFrame:
    """Two branches in every projection block: a row for both together, and one for each."""
    frame = made.participation_frame().query("state == 'fresh'")
    split = frame[frame["kind"] == "projection"]
    parts = [split.assign(branch=place, attention=place == 0, value=split["value"] / 2) for place in (0, 1)]
    return pd.concat([frame.assign(branch=-1, attention=False), *parts], ignore_index=True)


def test_blocks_of_several_branches_are_drawn_whole():
    points = line(figures.block_participation(several_branches()).axes[0], "projection")[0]
    assert list(points.get_xdata()) == [6, 12]
    np.testing.assert_allclose(points.get_ydata().astype(float), [0.8, 0.8])


def test_branches_of_one_block_lie_side_by_side():
    axis = figures.block_participation(several_branches(), each_branch=True).axes[0]
    places = [line(axis, name)[0].get_xdata() for name in ("projection, attention", "projection")]
    np.testing.assert_allclose(np.array(places, dtype=float), [[5.9, 11.9], [6.1, 12.1]])
    assert len(line(axis, "identity")[0].get_xdata()) == 16


def test_a_projection_begins_a_stage_where_the_frame_names_none():
    axis = figures.block_participation(made.participation_frame().drop(columns="stage")).axes[0]
    assert [
        one.get_xdata()[0] for one in axis.get_lines() if list(one.get_xdata()) == [one.get_xdata()[0]] * 2
    ][:2] == [5.5, 11.5]


def test_participation_of_two_blocks_at_one_place_is_no_mean():
    frame = made.participation_frame().assign(index=0, kind="identity")
    with pytest.raises(ValueError, match="averages over seeds only"):
        figures.block_participation(frame)


# --- ensemble_depth


def test_depth_and_coherence_along_training():
    frame = made.depth_frame(seeds=2)
    lengths, coherence = figures.ensemble_depth(frame).axes
    mean = frame.groupby(["quantity", "step"])["value"].mean()
    np.testing.assert_allclose(line(lengths, "measured").get_ydata(), mean["mean_path_length"])
    np.testing.assert_allclose(line(lengths, "implied by the gains").get_ydata(), mean["implied_path_length"])
    np.testing.assert_allclose(coherence.get_lines()[0].get_ydata(), mean["total_coherence"])
    assert coherence.get_yscale() == "log" and "mean of 2 seeds" in coherence.get_xlabel()


def test_depth_without_coherence_has_one_panel_and_families_have_lines_of_their_own():
    frame = made.depth_frame(1).query("quantity != 'total_coherence'")
    frame = pd.concat([frame.assign(family="a"), frame.assign(family="b", value=2 * frame["value"])])
    figure = figures.ensemble_depth(frame, color="family")
    assert len(figure.axes) == 1
    assert {"a, measured", "b, implied by the gains"} <= set(labels(figure))


def test_depth_needs_a_length():
    with pytest.raises(ValueError, match="the frame has none of them"):
        figures.ensemble_depth(made.depth_frame(1).query("quantity == 'total_coherence'"))


# --- path_cost


def test_cost_is_drawn_against_what_was_swept():
    frame = made.cost_frame()
    of_lengths, of_blocks = figures.path_cost(frame).axes
    assert {axis.get_xscale() for axis in (of_lengths, of_blocks)} == {"log"}
    assert "lengths computed" in of_lengths.get_xlabel() and "mean of 3 rounds" in of_blocks.get_xlabel()
    some = frame.query("sweep == 'blocks' and contender == 'delay line'").groupby("blocks")["value"].mean()
    points = line(of_blocks, "delay line")[0]
    np.testing.assert_allclose(points.get_xdata().astype(float), some.index)
    np.testing.assert_allclose(points.get_ydata().astype(float), some)
    guide = line(of_blocks, "theory: to its square")
    x, y = guide.get_xdata(), guide.get_ydata()
    assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(2)


def test_a_sweep_names_a_column():
    with pytest.raises(ValueError, match=r"lacks \['width'\]"):
        figures.path_cost(made.cost_frame().assign(sweep="width"))


# --- deletion_survival


def test_marks_are_measured_and_lines_the_law():
    frame, theory = made.survival_frame(), made.survival_theory()
    axis = figures.deletion_survival(frame, theory=theory).axes[0]
    ten = frame[frame["deleted"] == 10]
    np.testing.assert_allclose(line(axis, "10 deleted")[0].get_ydata().astype(float), ten["value"])
    law = theory[(theory["deleted"] == 10) & (theory["value"] > 0)]
    np.testing.assert_allclose(line(axis, "theory, 10 deleted").get_ydata(), law["value"])
    assert line(axis, "10 deleted")[0].get_color() == line(axis, "theory, 10 deleted").get_color()


def test_lengths_without_survivors_are_counted_on_a_log_axis():
    frame = made.survival_frame()
    frame.loc[3, "value"] = 0.0
    assert f"1 of {len(frame)} rows not drawn: not positive" in notes(figures.deletion_survival(frame))
    linear = figures.deletion_survival(frame, y_scale="linear")
    assert "not drawn" not in notes(linear)
    assert line(linear.axes[0], "1 deleted")[0].get_ydata()[3] == 0.0


def test_settings_are_left_as_found():
    before = dict(mpl.rcParams)
    for name, frame in made.EXAMPLES.items():
        data, options = frame()
        getattr(figures, name)(data, **options)
    assert {key: mpl.rcParams[key] for key in before} == before
