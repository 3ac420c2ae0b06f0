"""Figures of what is read off Gram matrices: every value at its place, and what is open or missing said so."""

import numpy as np
import pandas as pd
import pytest

from gradscope import figures
from tests.figures.gram_frames import agreement_frame, cosine_frame


def legend(figure) -> set[str]:
    return {label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]}


def test_one_panel_for_each_quantity_and_one_line_for_each_gradient():
    figure = figures.agreement(agreement_frame())
    assert [axis.get_ylabel().split("\n")[0] for axis in figure.axes] == [
        *("correlation R", "share negative cosines", "simple noise scale"),
    ]
    assert legend(figure) == {"parameter", "backward", "all parameters"}
    assert "examples" in figure.axes[2].get_ylabel()


def test_points_are_means_over_seeds_and_the_whole_gradient_is_a_line_across():
    frame = agreement_frame()
    axis = figures.agreement(frame).axes[0]
    rows = frame[(frame["quantity"] == "correlation_R") & (frame["gradient"] == "parameter")]
    (points,) = [bars.lines[0] for bars in axis.containers if bars.get_label() == "parameter"]
    expected = rows.groupby("depth")["value"].mean()
    np.testing.assert_allclose(np.asarray(points.get_ydata(), dtype=float), expected)
    np.testing.assert_allclose(np.asarray(points.get_xdata(), dtype=float), [1, 2, 3], atol=0.1)
    (line,) = [line for line in axis.lines if line.get_label() == "all parameters"]
    assert line.get_ydata()[0] == pytest.approx(rows[rows["site"] == "all parameters"]["value"].mean())


def test_lines_at_zero_and_one_where_a_quantity_has_no_unit():
    axes = figures.agreement(agreement_frame()).axes
    for axis, expected in zip(axes, ({0.0, 1.0}, {0.0, 1.0}, set()), strict=True):
        found = {line.get_ydata()[0] for line in axis.lines if line.get_linewidth() == 0.8}
        assert found == expected


def test_an_interval_without_upper_end_is_an_arrow_and_keeps_the_scale():
    frame = agreement_frame(seeds=1)
    frame.loc[frame["quantity"] == "simple_noise_scale", "high"] = np.inf
    figure = figures.agreement(frame)
    assert "interval without upper end" in legend(figure)
    assert np.isfinite(figure.axes[2].get_ylim()).all() and figure.axes[2].get_ylim()[1] < 100
    assert "interval without upper end" not in legend(figures.agreement(agreement_frame(seeds=1)))


def test_quantities_are_chosen_and_unknown_ones_refused():
    frame = agreement_frame()
    assert len(figures.agreement(frame, quantities=["correlation_R"]).axes) == 1
    with pytest.raises(ValueError, match="but the frame has"):
        figures.agreement(frame, quantities=["stable_rank"])


@pytest.mark.parametrize("power", [0, 1])
def test_positive_values_with_a_unit_are_always_on_a_log_axis(power):
    frame = agreement_frame(seeds=1)
    scale = frame["quantity"] == "simple_noise_scale"
    frame.loc[scale, "value"] *= 10 ** (power * frame.loc[scale, "depth"].fillna(1))
    axes = figures.agreement(frame).axes
    assert [axis.get_yscale() for axis in axes] == ["linear", "linear", "log"]
    frame.loc[scale, "value"] *= -1
    assert figures.agreement(frame).axes[2].get_yscale() == "linear"


@pytest.mark.parametrize("quantity", ["correlation_R", "simple_noise_scale"])
def test_one_long_interval_does_not_rule_a_panel(quantity):
    """The limits are those without the long one, to a few times; the cut end has a mark and an entry."""
    frame = agreement_frame(seeds=1)
    panel = ["correlation_R", "share_negative_cosines", "simple_noise_scale"].index(quantity)
    before = figures.agreement(frame)
    assert "interval leaves the panel" not in legend(before)
    long = (frame["quantity"] == quantity) & (frame["depth"] == 2) & (frame["gradient"] == "parameter")
    frame.loc[long, "high"] = 1e6
    figure = figures.agreement(frame)
    top = figure.axes[panel].get_ylim()[1]
    assert top < 30 * before.axes[panel].get_ylim()[1]
    assert "interval leaves the panel" in legend(figure)
    (mark,) = [line for line in figure.axes[panel].lines if line.get_label() == "interval leaves the panel"]
    assert mark.get_ydata()[0] == top and len(mark.get_xdata()) == 1


def test_all_panels_have_one_x_axis():
    frame = agreement_frame()
    deep = frame["quantity"] == "simple_noise_scale"
    limits = {axis.get_xlim() for axis in figures.agreement(frame[~deep | (frame["depth"] != 1)]).axes}
    assert len(limits) == 1


def test_levels_of_few_layers_say_so_and_notes_fit_under_their_panel():
    frame = agreement_frame()
    frame = frame[(frame["gradient"] != "backward") | (frame["depth"] == 3)].copy()
    frame.loc[frame.index[0], "value"] = np.nan
    figure = figures.agreement(frame)
    assert legend(figure) == {"parameter", "backward (1 of 3 layers)", "all parameters"}
    lines = figure.axes[-1].get_xlabel().split("\n")
    assert max(map(len, lines)) <= 26 and "rows not drawn" in " ".join(lines)


def shown(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def test_examples_are_ordered_by_class_with_lines_between():
    frame = cosine_frame()
    figure = figures.cosine_matrix(frame)
    order = [0, 3, 6, 1, 4, 7, 2, 5]
    table = frame.pivot(index="i", columns="j", values="value").to_numpy()
    np.testing.assert_allclose(shown(figure), table[np.ix_(order, order)])
    lines = sorted({line.get_ydata()[0] for line in figure.axes[0].lines if len(set(line.get_ydata())) == 1})
    assert lines == [2.5, 5.5]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "1", "2"]
    np.testing.assert_allclose(shown(figures.cosine_matrix(frame, order="given")), table)
    backwards = list(range(7, -1, -1))
    np.testing.assert_allclose(shown(figures.cosine_matrix(frame, order=backwards)), table[::-1, ::-1])


def test_a_matrix_is_drawn_as_its_frame_is():
    frame = cosine_frame()
    table = frame.pivot(index="i", columns="j", values="value").to_numpy()
    figure = figures.cosine_matrix(table, classes=[0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_allclose(shown(figure), shown(figures.cosine_matrix(frame)))
    assert not figures.cosine_matrix(table).axes[0].lines


def test_the_scale_is_the_same_whatever_the_values_and_grey_rises_with_them():
    figure = figures.cosine_matrix(0.1 * np.eye(3))
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-1, 1)
    grey = image.cmap(np.linspace(0, 1, 20))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) > 0).all()


def test_a_pair_without_value_is_left_open_and_counted():
    frame = cosine_frame()
    frame.loc[(frame["i"] == 2) | (frame["j"] == 2), "value"] = np.nan
    figure = figures.cosine_matrix(frame, order="given")
    mask = np.ma.getmaskarray(figure.axes[0].images[0].get_array())
    assert mask[2].all() and mask[:, 2].all() and mask.sum() == 15
    assert "15 of 64 rows not drawn" in figure.axes[0].get_xlabel()
    assert figure.axes[0].patch.get_hatch()


@pytest.mark.parametrize(
    ("frame", "options", "match"),
    [
        (pd.concat([cosine_frame()] * 2), {}, "one matrix for each site"),
        (cosine_frame(), {"order": "cluster"}, "'class', 'given' or positions"),
        (cosine_frame(), {"order": [0, 1]}, "each of the 8 examples once"),
        (np.zeros((2, 3)), {}, "square matrix or a frame"),
        (np.eye(3), {"classes": [0, 1]}, "2 classes for 3 examples"),
    ],
)
def test_what_cannot_be_drawn_is_refused(frame, options, match):
    with pytest.raises(ValueError, match=match):
        figures.cosine_matrix(frame, **options)
