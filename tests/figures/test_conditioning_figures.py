"""Figures of blocks, learning rates and condition numbers: zero, undefined, diverged and bounded look different."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from gradscope import figures
from gradscope.figures.heat import CROSSED, HATCH
from gradscope.figures.shaded_cells import SHADES
from tests.figures import curvature_frames as made
from tests.figures.drawn import hollow, labels, line, notes, texts

# --- block_curvature


def faces(axis, size: int) -> np.ndarray:
    colours = [to_hex(patch.get_facecolor()) for patch in axis.patches]
    return np.array(colours).reshape(-1, size)


def hatches(axis, size: int) -> np.ndarray:
    return np.array([patch.get_hatch() or "" for patch in axis.patches]).reshape(-1, size)


def test_at_the_zero_point_only_pairs_within_a_block_are_shaded():
    table, matrix = figures.block_curvature(made.block_frame(zero_point=True)).axes
    shaded = faces(matrix, 6) != "#ffffff"
    pairs = np.kron(np.eye(3), [[0, 1], [1, 0]]).astype(bool)
    np.testing.assert_array_equal(shaded, pairs)
    assert texts(matrix) == ["0"] * 30
    assert (hatches(table, 6)[:, 4:] == CROSSED).all() and (hatches(table, 6)[:, :4] == "").all()
    assert {"0: exactly zero", "undefined"} <= set(labels(table.figure))


def test_the_smallest_number_does_not_look_like_zero():
    frame = made.block_frame()
    zero = (
        (frame["quantity"] == "coupling")
        & (frame["block"] == "blocks.2.2")
        & (frame["other"] == "blocks.0.0")
    )
    tiny = (
        (frame["quantity"] == "coupling")
        & (frame["block"] == "blocks.2.0")
        & (frame["other"] == "blocks.0.0")
    )
    frame.loc[zero, "value"] = 0.0
    frame.loc[tiny, "value"] = 1e-30
    matrix = figures.block_curvature(frame).axes[1]
    assert faces(matrix, 6)[5, 0] == faces(matrix, 6)[0, 5] == "#ffffff"
    assert faces(matrix, 6)[4, 0] == to_hex(SHADES(0.0)) != "#ffffff"


def test_the_diagonal_is_the_norm_of_a_block_alone():
    frame = made.block_frame()
    frame.loc[(frame["quantity"] == "lambda_min") & (frame["block"] == "blocks.0.0"), "value"] = -300.0
    matrix = figures.block_curvature(frame).axes[1]
    assert faces(matrix, 6)[0, 0] == to_hex(SHADES(1.0))
    own = made.block_frame().iloc[:1].assign(quantity="coupling", other="blocks.0.0", value=1e-9)
    told = figures.block_curvature(pd.concat([made.block_frame(), own], ignore_index=True)).axes[1]
    assert faces(told, 6)[0, 0] == to_hex(SHADES(0.0))


def test_pairs_without_a_row_are_not_measured_rather_than_zero():
    frame = made.block_frame()
    frame = frame[(frame["quantity"] != "coupling") | (frame["other"] != "blocks.0.0")]
    figure = figures.block_curvature(frame)
    assert (faces(figure.axes[1], 6)[0, 1:] == "#d9d9d9").all()
    assert "not measured" in labels(figure)


def test_numbers_of_the_table_are_means_over_seeds_and_negative_ones_are_hatched():
    seeds = pd.concat(
        [made.block_frame().assign(seed=k, value=lambda f, k=k: f["value"] * (1 + k)) for k in (0, 1)]
    )
    table = figures.block_curvature(seeds.reset_index(drop=True)).axes[0]
    assert texts(table)[:4] == ["0.75", "−0.19", "2.2", "0.075"]
    assert (hatches(table, 6)[:, 1] == HATCH).all() and (hatches(table, 6)[:, 0] == "").all()
    assert "mean of 2 seeds" in notes(table.figure)


def test_one_division_of_the_network_at_a_time():
    both = pd.concat([made.block_frame(), made.block_frame().assign(by="block")])
    with pytest.raises(ValueError, match=r"but the frame has \['layer', 'block'\]"):
        figures.block_curvature(both)


def test_blocks_without_couplings_have_no_matrix():
    frame = made.block_frame()
    (axis,) = figures.block_curvature(frame[frame["quantity"] != "coupling"]).axes
    assert axis.get_yticklabels()[0].get_text() == "blocks.0.0"
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


def rings(axis) -> set[tuple[float, float]]:
    """Row and column of the cells that have a ring."""
    return {
        (round(float(y)), round(float(x)))
        for one in axis.lines
        if one.get_label() == "hollow ring: not converged"
        for x, y in zip(one.get_xdata(), one.get_ydata(), strict=True)
    }


def cell(frame: pd.DataFrame, quantity: str, block: str) -> pd.Series:
    return (frame["quantity"] == quantity) & (frame["block"] == block)


def test_what_has_not_converged_has_a_ring_and_a_clipped_zero_is_no_exact_one():
    frame = made.block_frame()
    clipped = cell(frame, "participation_ratio", "blocks.0.0")
    frame.loc[clipped, ["value", "low", "high", "status"]] = [0.0, 0.0, 2.9, "unconverged"]
    frame.loc[cell(frame, "trace", "blocks.0.2"), ["value", "low", "high"]] = [0.0, -1.0, 1.0]
    frame.loc[cell(frame, "trace", "blocks.1.0"), ["value", "low", "high"]] = [0.0, -1e-9, 1e-9]
    frame.loc[cell(frame, "gradient_norm", "blocks.2.2"), ["value", "status"]] = [np.nan, "unconverged"]
    frame.loc[cell(frame, "lambda_min", "blocks.2.0"), "status"] = "unconverged"
    table, matrix = figures.block_curvature(frame).axes
    assert rings(table) == {(0, 4), (5, 3), (4, 1)} and rings(matrix) == {(4, 4)}
    drawn = faces(table, 6)
    assert drawn[0, 4] == drawn[1, 2] == to_hex(SHADES(0.0)) != "#ffffff"
    assert drawn[2, 2] == drawn[5, 3] == "#ffffff" and hatches(table, 6)[5, 3] == CROSSED
    assert "hollow ring: not converged" in labels(table.figure)
    assert "hollow ring: not converged" not in labels(figures.block_curvature(made.block_frame()))


def test_only_rows_of_blocks_are_drawn_and_without_any_it_says_what_to_do():
    frame = made.block_frame()
    whole = frame[frame["block"] == "blocks.0.0"].assign(block=None, other=None)
    with_whole = pd.concat([frame, whole, whole], ignore_index=True)
    told, alone = figures.block_curvature(with_whole), figures.block_curvature(frame)
    assert [texts(axis) for axis in told.axes] == [texts(axis) for axis in alone.axes]
    with pytest.raises(
        ValueError, match=r"no row of the frame has a block.*curvature_study\(problem, by=...\)"
    ):
        figures.block_curvature(whole)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_nothing_positive_draws_without_a_warning(value, tmp_path):
    blocks, numbers = made.block_frame().assign(value=value), made.definitions_frame().assign(value=value)
    for name, figure in {
        "blocks": figures.block_curvature(blocks),
        "numbers": figures.condition_numbers(numbers),
    }.items():
        figure.savefig(tmp_path / f"{name}.png")


# --- learning_rate_grid


def diverged(axis) -> dict[float, list[bool]]:
    """Rate -> whether each of its marks along the top edge is filled."""
    found: dict[float, list[bool]] = {}
    for one in axis.lines:
        if one.get_transform() == axis.get_xaxis_transform():
            found.setdefault(float(one.get_xdata()[0]), []).append(one.get_markerfacecolor() != "white")
    return found


def test_points_are_medians_and_divergence_is_marked_at_the_top():
    frame = made.grid_frame()
    axis = figures.learning_rate_grid(frame).axes[0]
    rows = frame[frame["network"] == "2-shortcut"]
    points, _, (whisker,) = line(axis, "2-shortcut")
    part = rows[rows["learning_rate"] == 0.5]["value"]
    at = list(points.get_xdata()).index(0.5)
    assert points.get_ydata()[at] == part.median()
    np.testing.assert_allclose(whisker.get_segments()[at][:, 1], [part.min(), part.max()])
    assert diverged(axis) == {0.5: [False, False], 1.0: [True, True], 2.0: [False, True, True]}
    assert axis.get_xscale() == axis.get_yscale() == "log"


def test_a_seed_that_diverged_is_infinitely_bad():
    frame = pd.DataFrame(
        {"network": "a", "learning_rate": 1.0, "value": [1.0, 2.0, np.inf, np.inf], "seed": range(4)}
    )
    more = frame.assign(learning_rate=0.5, value=[1.0, 2.0, 3.0, np.inf])
    axis = figures.learning_rate_grid(pd.concat([frame, more])).axes[0]
    points = line(axis, "a")[0]
    assert list(points.get_xdata()) == [0.5] and list(points.get_ydata()) == [2.5]
    (ring,) = [one for one in axis.lines if one.get_markersize() == 11]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (0.5, 2.5)
    assert diverged(axis) == {0.5: [False], 1.0: [False]}


def test_a_reason_tells_divergence_from_what_is_merely_missing():
    frame = made.grid_frame().assign(reason="", status="ok")
    frame.loc[frame["value"].isna(), ["status", "reason"]] = (
        "undefined",
        "diverged: the loss is no longer finite",
    )
    figure = figures.learning_rate_grid(frame)
    assert sum(map(len, diverged(figure.axes[0]).values())) == 7 and "not drawn" not in notes(figure)
    missing = figures.learning_rate_grid(frame.assign(reason="out of memory"))
    assert not diverged(missing.axes[0])
    assert f"{int(frame['value'].isna().sum())} of 90 rows not drawn: not finite" in notes(missing)


def test_runs_that_are_mixed_are_refused_and_units_are_the_frames():
    frame = made.grid_frame()
    with pytest.raises(ValueError, match="180 rows share theirs"):
        figures.learning_rate_grid(pd.concat([frame, frame]))
    axis = figures.learning_rate_grid(frame.assign(quantity="excess_loss", unit="1")).axes[0]
    assert axis.get_ylabel() == "excess loss at the end (dimensionless)"


# --- condition_numbers


def arrows(axis) -> list[float]:
    return [float(text.xy[0]) for text in axis.texts if getattr(text, "arrow_patch", None) is not None]


def test_bounds_from_below_are_arrows_and_infinity_begins_at_its_low_end():
    frame = made.definitions_frame()
    axis = figures.condition_numbers(frame).axes[0]
    assert arrows(axis) == [5800.0, 1e6]
    assert axis.get_xscale() == "log" and axis.get_xlim()[1] > 2e6
    assert axis.get_yticklabels()[0].get_text() == "percentile 10"
    assert len(hollow(axis)) == 1 and "gradient descent is unstable above 2" in labels(axis.figure)
    assert "how far from convex the loss is here" in texts(axis)


def test_what_is_undefined_keeps_its_row_and_says_why():
    frame = made.definitions_frame()
    frame.loc[0, ["value", "low", "high"]] = np.nan
    frame.loc[0, ["status", "reason"]] = "undefined", "needs all eigenvalues, and P = 272474 is over 5000"
    figure = figures.condition_numbers(frame)
    assert any("undefined: needs all eigenvalues, and P = 272474" in text for text in texts(figure.axes[0]))
    assert len(figure.axes[0].get_yticks()) == 6 and "1 of 6 rows not drawn: not finite" in notes(figure)


def test_zero_is_not_on_the_log_axis_and_says_so():
    frame = made.definitions_frame()
    frame.loc[1, "value"] = 0.0
    figure = figures.condition_numbers(frame)
    assert any("not drawn: the value is 0" in text for text in texts(figure.axes[0]))
    assert "1 of 6 rows not drawn: not positive" in notes(figure)


def test_one_network_at_a_time():
    frame = made.definitions_frame()
    with pytest.raises(ValueError, match=r"several rows of .*'percentile_10'"):
        figures.condition_numbers(pd.concat([frame, frame]))


def test_a_frame_of_many_quantities_gives_the_whole_networks_condition_numbers():
    own = made.definitions_frame().drop(columns="use")
    others = [
        own.assign(block="head"),
        own.assign(batch_size=16.0),
        own.assign(quantity="lambda_max", definition=None),
    ]
    axis = figures.condition_numbers(pd.concat([*others, own], ignore_index=True)).axes[0]
    plain = figures.condition_numbers(own).axes[0]
    assert texts(axis) == texts(plain) and arrows(axis) == arrows(plain)
    assert [one.get_text() for one in axis.get_yticklabels()][:2] == ["percentile 10", "negative ratio"]
    with pytest.raises(ValueError, match="no row of the frame is one"):
        figures.condition_numbers(pd.concat(others))


# --- what is new in condition_against_depth, eigenvalue_stems and spectral_density


def test_conditions_get_rows_of_panels_and_laws_their_own():
    frame, theory = made.panelled_condition_frame(), made.panelled_condition_theory()
    figure = figures.condition_against_depth(frame, theory, panels="biases")
    without, with_biases = figure.axes[:3], figure.axes[3:]
    assert [axis.get_title("left") for axis in figure.axes[::3]] == ["without biases", "with biases"]
    law = "theory, 2-shortcut: singular values of G"
    assert law in without[0].get_legend_handles_labels()[1]
    assert law not in with_biases[0].get_legend_handles_labels()[1]
    points = line(without[0], "2-shortcut")[0]
    assert (
        points.get_linestyle() == "None" and line(with_biases[0], "2-shortcut")[0].get_linestyle() != "None"
    )
    rows = frame[(frame["biases"] == "with biases") & (frame["network"] == "1-shortcut")]
    share = rows[rows["quantity"] == "share_negative"].groupby("layers")["value"].mean()
    np.testing.assert_allclose(line(with_biases[2], "1-shortcut")[0].get_ydata(orig=False), share)
    assert without[2].get_yscale() == "linear" and without[0].get_yscale() == "log"
    mine = Figure()
    assert figures.condition_against_depth(frame, theory, panels="biases", ax=mine.subplots()) is mine


def test_the_multiplicity_is_told():
    sigma = np.array([-1.0, 1.0])
    frame = pd.DataFrame({"blocks": 16, "quantity": "eigenvalue", "value": np.repeat(sigma, 48)})
    (axis,) = figures.eigenvalue_stems(frame).axes
    assert axis.get_title("left") == "16 blocks: every place 48 times" and not axis.texts
    uneven = pd.DataFrame({"blocks": 1, "quantity": "eigenvalue", "value": [0.0, 0.0, 0.0, 2.0, 2.001]})
    (axis,) = figures.eigenvalue_stems(uneven).axes
    assert axis.get_title("left") == "1 block" and texts(axis) == ["×3"]


def test_densities_tell_their_zero_rows_and_each_resolution():
    frame = made.four_densities()
    figure = figures.spectral_density(frame, panels="state")
    told = figure.axes[0].get_xlabel().replace("\n", " ")
    assert "exactly zero: skips, batch norm: 0; skips: 0.034; batch norm: 0.068; neither: 0.102" in told
    assert "no shape or sign in there is real" in figure.axes[1].get_xlabel().replace("\n", " ")
    widths = sorted(2 * 0.1 * (0.3 + 0.3 * i) for i in range(4))
    np.testing.assert_allclose(sorted(patch.get_width() for patch in figure.axes[1].patches), widths)
    plain = figures.spectral_density(frame[frame["quantity"] != "zero_row_fraction"], panels="state")
    assert "zero" not in notes(plain)
