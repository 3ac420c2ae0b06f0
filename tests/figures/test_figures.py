"""Each figure draws what its frame says, says what it leaves out, and leaves matplotlib as found."""

import subprocess
import sys
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradscope import figures
from gradscope.figures.style import marks


def svg(figure: Figure) -> bytes:
    out = BytesIO()
    with figures.house_style():
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def lines(figure: Figure) -> list[str]:
    """Labels of everything in the legends of all panels, once each."""
    labels = [label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]]
    return list(dict.fromkeys(labels))


def notes(figure: Figure) -> str:
    return " ".join(axis.get_xlabel() for axis in figure.axes)


def test_axes_are_labelled_with_units(example):
    name, frame, options = example
    figure = getattr(figures, name)(frame, **options)
    assert isinstance(figure, Figure)
    for axis in figure.axes:
        assert axis.get_ylabel() or figure.get_supylabel()
    assert "(" in notes(figure)
    assert "(" in (figure.get_supylabel() or figure.axes[0].get_ylabel())


def test_the_same_frame_gives_the_same_bytes_and_leaves_no_setting_behind(example):
    name, frame, options = example
    before = dict(mpl.rcParams)
    first, second = (svg(getattr(figures, name)(frame.copy(), **options)) for _ in range(2))
    assert first == second
    assert b"<text" in first, "text in an SVG stays text"
    assert {key: mpl.rcParams[key] for key in before} == before


def test_the_frame_is_not_changed(example):
    name, frame, options = example
    copy = frame.copy()
    getattr(figures, name)(frame, **options)
    pd.testing.assert_frame_equal(frame, copy)


def test_drawing_into_given_axes_returns_their_figure(example):
    name, frame, options = example
    mine = Figure()
    axis = mine.subplots()
    assert getattr(figures, name)(frame, **options, ax=axis) is mine
    assert svg(mine)


def test_rows_that_cannot_be_drawn_are_counted_in_the_figure(example):
    name, frame, options = example
    assert "not drawn" not in notes(getattr(figures, name)(frame, **options))
    frame = frame.copy()
    frame.loc[frame.index[2], "value"] = np.nan
    assert "1 of" in notes(getattr(figures, name)(frame, **options))


def test_a_frame_without_a_single_number_says_so(example):
    name, frame, options = example
    frame = frame.assign(value=np.nan)
    if name == "spectral_density":
        with pytest.raises(ValueError, match="no positive density"):
            getattr(figures, name)(frame, **options)
        return
    figure = getattr(figures, name)(frame, **options)
    assert "rows not drawn: not finite" in notes(figure)
    assert svg(figure)


def test_a_missing_column_is_named(example):
    name, frame, options = example
    with pytest.raises(ValueError, match="value"):
        getattr(figures, name)(frame.drop(columns="value"), **options)


def test_a_dollar_sign_and_markup_in_a_name_are_text(examples):
    frame, _ = examples["correlation_against_depth"]()
    frame["family"] = frame["family"].replace("plain", r"$\foo$ <script>")
    assert b"&lt;script&gt;" in svg(figures.correlation_against_depth(frame))


def test_no_torch_and_no_pyplot_state():
    code = (
        "import sys, gradscope.figures, matplotlib; assert 'torch' not in sys.modules, 'torch'; "
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# what a figure's legend must name, by figure
NAMED = {
    "correlation_against_depth": ["plain", "residual", "residual, batch norm", "theory, plain: 2^-L"],
    "autocorrelation": ["95 % band of white noise", "2 layers", "50 layers"],
    "lesions": ["stale", "recalibrated", "stale, block changes the shape", "intact network", "chance level"],
    "greedy_removal": ["stale: greedy", "recalibrated: random sets, median and 95 %", "intact network"],
    "lesion_groups": ["stale", "recalibrated", "intact network", "chance level"],
    "lesion_sets": ["stale: median, 95 % of draws", "recalibrated: median, 95 % of draws", "chance level"],
    "reordering": ["stale: median, 95 % of orders", "recalibrated: median, 95 % of orders", "intact network"],
    "path_lengths": ["signed share (sums to 1)", "paths × norm of one (Veit)", "number of paths"],
    "condition_against_depth": ["2-shortcut", "hollow: not converged or undefined for some seed"],
    "eigenvalue_stems": ["closed form", "dense Hessian"],
    "spectral_density": ["plain", "residual", "plain: extreme eigenvalues", "resolution"],
}


@pytest.mark.parametrize("name", NAMED)
def test_the_legend_names_what_is_drawn(name, examples):
    frame, options = examples[name]()
    assert set(NAMED[name]) <= set(lines(getattr(figures, name)(frame, **options)))


@pytest.mark.parametrize(
    ("name", "panels"),
    [("traces", 5), ("autocorrelation", 2), ("lesions", 2), ("path_lengths", 2), ("eigenvalue_stems", 2)],
)
def test_one_panel_for_each_condition(name, panels, examples):
    frame, options = examples[name]()
    assert len(getattr(figures, name)(frame, **options).axes) == panels


def test_points_are_means_over_seeds_with_the_student_interval(examples):
    from scipy.stats import t

    frame, _ = examples["correlation_against_depth"]()
    axis = figures.correlation_against_depth(frame).axes[0]
    rows = frame[(frame["family"] == "plain") & (frame["depth"] == 8)]["value"]
    bars = axis.containers[0]
    points, _, (whisker,) = bars
    at = list(points.get_xdata()).index(8)
    assert points.get_ydata()[at] == pytest.approx(rows.mean())
    half = t.ppf(0.975, 4) * rows.std(ddof=1) / 5**0.5
    np.testing.assert_allclose(whisker.get_segments()[at][:, 1], [rows.mean() - half, rows.mean() + half])


def test_a_single_seed_keeps_its_own_interval():
    frame = pd.DataFrame(
        {"family": "a", "depth": [1, 2], "value": [0.5, 0.2], "low": [0.4, 0.1], "high": [0.6, 0.3]}
    )
    _, _, (whisker,) = figures.correlation_against_depth(frame).axes[0].containers[0]
    np.testing.assert_allclose(whisker.get_segments()[0][:, 1], [0.4, 0.6])


def test_a_mean_over_conditions_is_refused():
    frame = pd.DataFrame({"family": "a", "depth": 1, "seed": 0, "site": ["x", "y"], "value": [0.1, 0.9]})
    with pytest.raises(ValueError, match=r"\['site'\]"):
        figures.correlation_against_depth(frame)


def test_two_quantities_on_one_axis_are_refused(examples):
    frame, _ = examples["correlation_against_depth"]()
    frame.loc[0, "quantity"] = "gradient_norm"
    with pytest.raises(ValueError, match="gradient_norm"):
        figures.correlation_against_depth(frame)


def test_colour_marker_and_dash_all_tell_lines_apart():
    looks = marks(range(5)).values()
    for part in ("colour", "marker", "dash"):
        assert len({getattr(look, part) for look in looks}) == 5
    assert len(set(marks(range(210)).values())) == 210


def test_values_that_are_not_positive_are_counted_on_a_log_axis():
    frame = pd.DataFrame({"family": "a", "depth": [1, 2, 4], "value": [0.5, 0.0, -0.1]})
    assert "2 of 3 rows not drawn: not positive" in notes(figures.correlation_against_depth(frame))
    linear = figures.correlation_against_depth(frame, y_scale="linear")
    assert "not drawn" not in notes(linear)


def test_stems_are_as_high_as_eigenvalues_are_many(examples):
    frame, _ = examples["eigenvalue_stems"]()
    one, four = figures.eigenvalue_stems(frame).axes
    dots = [next(line for line in axis.lines if line.get_label() == "dense Hessian") for axis in (one, four)]
    np.testing.assert_allclose(dots[0].get_xdata(), [-1.1, -0.7, -0.3, 0.3, 0.7, 1.1])
    assert set(dots[0].get_ydata()) == {3} and set(dots[1].get_ydata()) == {12}


def test_stems_of_two_seeds_are_refused(examples):
    frame, _ = examples["eigenvalue_stems"]()
    frame["seed"] = np.arange(len(frame)) % 2
    with pytest.raises(ValueError, match="one seed"):
        figures.eigenvalue_stems(frame)


def test_shape_changing_blocks_are_hollow(examples):
    frame, _ = examples["lesions"]()
    hollow = [
        points
        for axis in figures.lesions(frame).axes
        for points, *_ in axis.containers
        if points.get_markerfacecolor() == "white"
    ]
    assert [list(points.get_xdata()) for points in hollow] == [[4, 8], [4, 8]]


def test_many_marks_become_pixels():
    x = np.linspace(-2, 2, 2500)
    frame = pd.DataFrame({"family": "plain", "layers": 24, "x": x, "value": np.sin(50 * x)})
    text = svg(figures.traces(frame))
    assert b"data:image/png" in text and len(text) < 150_000


def test_a_figure_shows_itself_in_a_notebook(examples):
    frame, options = examples["eigenvalue_stems"]()
    assert figures.eigenvalue_stems(frame, **options)._repr_png_().startswith(b"\x89PNG")


def test_frames_of_studies_are_drawn_as_they_are():
    """A frame of one network has no family, and one of `gradient_correlation` has two quantities and the input."""
    read = pd.DataFrame(
        {
            "quantity": ["correlation_R", "mean_cosine"] * 3,
            "depth": [0, 0, 1, 1, 2, 2],
            "value": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        }
    )
    (axis,) = figures.correlation_against_depth(read).axes
    assert axis.containers[0].lines[0].get_xdata().tolist() == [1, 2]
    (axis,) = figures.correlation_against_depth(read, x_scale="linear").axes
    assert axis.containers[0].lines[0].get_ydata().tolist() == [0.1, 0.3, 0.5]


def test_the_line_of_branch_norms_tells_its_slope(examples):
    frame, _ = examples["branch_norms"]()
    exact = frame.assign(value=9.0 * frame["blocks"] ** -0.5)
    assert "measured: slope -0.50" in lines(figures.branch_norms(exact))
