"""The pictures of a refinement study draw what its frame says, and say what they leave out."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradscope.figures.angular_distance import angular_distance
from gradscope.figures.estimation_error import estimation_error
from gradscope.figures.refinement import NAMES, refinement

DRAW = {"refinement": refinement, "estimation_error": estimation_error, "angular_distance": angular_distance}


def frame(seeds: int = 1) -> pd.DataFrame:
    """Two stages of three blocks, of which the fourth block projects."""
    rows = []
    for seed in range(seeds):
        for index in range(6):
            kind, stage, position = "projection" if index == 3 else "identity", index // 3, index % 3 + 1
            where = {"index": index, "kind": kind, "stage": stage, "position": position, "seed": seed}
            for quantity in NAMES:
                value = 0.1 * index + 0.01 * seed
                rows.append({"quantity": quantity, "unit": "1", "other_index": -1, "value": value} | where)
            for last in range(index, 3 * stage + 3):
                value = 0.05 * (last - index + 1) + 0.01 * seed + 0.001 * index
                rows.append(
                    {
                        "quantity": "angular_distance",
                        "unit": "half turns",
                        "other_index": last,
                        "value": value,
                    }
                    | where
                )
    made = pd.DataFrame(rows)
    return made.assign(low=made["value"] - 0.01, high=made["value"] + 0.02, n=8, status="ok", reason="")


def svg(figure: Figure) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="svg")
    return out.getvalue()


def notes(figure: Figure) -> str:
    return " ".join(axis.get_xlabel() for axis in figure.axes)


@pytest.mark.parametrize("name", DRAW)
def test_axes_have_units_and_the_same_frame_gives_the_same_bytes(name):
    made = frame()
    kept = made.copy()
    figure = DRAW[name](made)
    assert "(" in notes(figure) and "(" in (figure.get_supylabel() or figure.axes[0].get_ylabel())
    assert svg(figure) == svg(DRAW[name](made))
    pd.testing.assert_frame_equal(made, kept)


@pytest.mark.parametrize("name", DRAW)
def test_given_axes_are_drawn_into(name):
    mine = Figure()
    assert DRAW[name](frame(), ax=mine.subplots()) is mine
    assert svg(mine)


@pytest.mark.parametrize("name", DRAW)
def test_what_is_not_finite_is_counted(name):
    made = frame()
    assert "not drawn" not in notes(DRAW[name](made))
    rows = {"refinement": "l2_ratio", "estimation_error": "estimation_error_mean"}.get(
        name, "angular_distance"
    )
    made.loc[made[made["quantity"] == rows].index[0], "value"] = np.nan
    assert "1 of" in notes(DRAW[name](made))
    empty = DRAW[name](frame().assign(value=np.nan))
    assert "rows not drawn: not finite" in notes(empty) and svg(empty)


@pytest.mark.parametrize("name", DRAW)
def test_a_missing_column_is_named(name):
    with pytest.raises(ValueError, match="value"):
        DRAW[name](frame().drop(columns="value"))


def test_stages_are_set_apart_and_projections_hollow():
    figure = refinement(frame(), quantities=("l2_ratio",))
    (axis,) = figure.axes
    assert [list(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "-"][:2] == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"] == [2.5]
    hollow = [p for p, *_ in axis.containers if p.get_markerfacecolor() == "white"]
    assert [list(points.get_xdata()) for points in hollow] == [[3]]


def test_points_of_one_seed_keep_their_interval_and_of_several_are_means():
    _, _, (whisker,) = refinement(frame(), quantities=("l2_ratio",)).axes[0].containers[0]
    np.testing.assert_allclose(whisker.get_segments()[1][:, 1], [0.09, 0.12])
    points, *_ = refinement(frame(seeds=3), quantities=("l2_ratio",)).axes[0].containers[0]
    np.testing.assert_allclose(points.get_ydata().astype(float), [0.01, 0.11, 0.21])


def test_a_panel_for_each_quantity_and_for_each_stage():
    assert len(refinement(frame(), quantities=("lens_loss", "early_exit_accuracy")).axes) == 2
    figure = estimation_error(frame())
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["stage 1", "stage 2"]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert set(labels) == {"mean over units", "spread over units (standard deviation)", "mean ± spread"}


def test_two_networks_are_told_apart():
    both = pd.concat([frame().assign(network=name) for name in ("pre", "post")])
    labels = refinement(both, quantities=("l2_ratio",)).axes[0].get_legend_handles_labels()[1]
    assert {"pre", "post", "post, block changes the shape"} == set(labels) - {"pre, block changes the shape"}
    assert len(angular_distance(both).axes) == 4, "two panels, each with its colour bar"


def test_cells_lie_at_the_first_deleted_block_and_the_number_deleted():
    axis = angular_distance(frame()).axes[0]
    grid = axis.images[0].get_array().filled(np.nan)
    assert grid.shape == (3, 6)
    np.testing.assert_allclose(grid[0], [0.05 + 0.001 * index for index in range(6)])
    np.testing.assert_allclose(grid[2], [0.15, np.nan, np.nan, 0.153, np.nan, np.nan])
    (least,) = axis.lines
    assert list(least.get_xdata()) == [0, 0, 0] and list(least.get_ydata()) == [1, 2, 3]


def test_a_quantity_the_frame_lacks_is_refused():
    with pytest.raises(ValueError, match=r"asked to draw \['lens_loss'\]"):
        refinement(frame()[lambda made: made["quantity"] != "lens_loss"], quantities=("lens_loss",))
    with pytest.raises(ValueError, match="no quantity"):
        refinement(frame(), quantities=())
    with pytest.raises(ValueError, match="estimation_error_spread"):
        estimation_error(frame()[lambda made: made["quantity"] != "estimation_error_spread"])
