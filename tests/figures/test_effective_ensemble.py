"""Gains along depth and weights of path lengths: what is drawn is what the frame says."""

from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradscope.figures import effective_ensemble

BLANK = {
    "form": "",
    "mixture": "",
    "index": -1,
    "branch": -1,
    "path_length": -1,
    "status": "ok",
    "reason": "",
}


def frame_of(*, blocks=4, batch_norm=True, branches=1, **conditions):
    """Gains 1/2 that shrink with depth, and made-up shares."""
    rows = []
    for index in range(blocks):
        for branch in range(branches):
            where = BLANK | {"index": index, "branch": branch}
            gain = 0.5 / (1 + index + branch)
            rows.append(
                where
                | {"quantity": "implied_beta", "form": "gain", "value": gain, "low": gain / 2, "high": 1}
            )
            value = gain if batch_norm else np.nan
            status = "ok" if batch_norm else "undefined"
            rows.append(
                where | {"quantity": "implied_beta", "form": "batch norm", "value": value, "status": status}
            )
            rows.append(
                where | {"quantity": "batch_norm_scale", "value": 1 + value - value, "status": status}
            )
            rows.append(where | {"quantity": "batch_norm_scale_spread", "value": value, "status": status})
    for form in ("gain", "batch norm") if batch_norm else ("gain",):
        for mixture in ("coherent", "incoherent"):
            labels = BLANK | {"quantity": "path_share", "form": form, "mixture": mixture}
            rows += [labels | {"path_length": k, "value": 2.0**-k} for k in range(blocks + 1)]
    return pd.DataFrame(rows).assign(**conditions)


TWO_STATES = pd.concat([frame_of(state="initial"), frame_of(state="trained", batch_norm=False)])
SEVERAL = {
    "one": frame_of(),
    "states": TWO_STATES,
    "no batch norm": frame_of(batch_norm=False),
    "two": frame_of(branches=2),
}


def labels(figure):
    return {label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]}


@pytest.mark.parametrize(("name", "panels"), [("one", 3), ("states", 4), ("no batch norm", 2), ("two", 3)])
def test_a_panel_for_gains_one_for_scales_and_one_for_every_state(name, panels):
    figure = effective_ensemble(SEVERAL[name])
    assert len(figure.axes) == panels
    assert all("(" in axis.get_ylabel() for axis in figure.axes)
    assert "path length" in figure.axes[-1].get_xlabel()


def test_lines_hold_the_values_of_the_frame():
    figure = effective_ensemble(frame_of())
    line = figure.axes[0].get_lines()[0]
    assert line.get_ydata().tolist() == [0.5, 0.25, 0.5 / 3, 0.125]
    shares = [line for line in figure.axes[-1].get_lines() if len(line.get_xdata())]
    assert len(shares) == 4 and all(
        line.get_ydata().tolist() == [1, 0.5, 0.25, 0.125, 0.0625] for line in shares
    )


def test_forms_mixtures_and_further_branches_are_named():
    assert {"gain of the branch", "gain of the branch, further branches"} <= labels(
        effective_ensemble(SEVERAL["two"])
    )
    named = labels(effective_ensemble(TWO_STATES))
    assert {"initial, gain of the branch", "trained, gain of the branch"} <= named
    assert any("paths add up" in label for label in named) and any("orthogonal" in label for label in named)


def test_what_is_undefined_is_counted():
    figure = effective_ensemble(SEVERAL["no batch norm"])
    assert "4 of 18 rows not drawn: undefined" in figure.axes[-1].get_xlabel()
    assert not any("batch norm" in label for label in labels(figure))


def test_seeds_are_averaged():
    seeds = pd.concat([frame_of(seed=seed).assign(value=lambda f, s=seed: f["value"] + s) for seed in (0, 1)])
    figure = effective_ensemble(seeds)
    assert figure.axes[0].get_lines()[0].get_ydata()[0] == 1.0
    assert "mean of 2 seeds" in figure.axes[1].get_xlabel()


def test_theory_is_drawn_over_it():
    theory = pd.DataFrame({"path_length": [0, 1, 2], "value": [0.2, 0.5, 0.3], "law": "binomial"})
    figure = effective_ensemble(frame_of(), theory=theory)
    assert "theory: binomial" in labels(figure)


def test_the_same_frame_gives_the_same_bytes_and_is_not_changed():
    frame = SEVERAL["no batch norm"]
    copy, before = frame.copy(), dict(mpl.rcParams)
    pictures = []
    for _ in range(2):
        out = BytesIO()
        effective_ensemble(frame).savefig(out, format="svg")
        pictures.append(out.getvalue())
    assert pictures[0] == pictures[1]
    pd.testing.assert_frame_equal(frame, copy)
    assert {key: mpl.rcParams[key] for key in before} == before


def test_given_axes_are_divided_and_their_figure_returned():
    figure = Figure()
    assert effective_ensemble(frame_of(), ax=figure.subplots()) is figure


def test_frames_of_something_else_are_refused():
    with pytest.raises(ValueError, match=r"effective_ensemble draws the columns .* lacks \['form'\]"):
        effective_ensemble(frame_of().drop(columns="form"))
    with pytest.raises(ValueError, match=r"has none\. Do not filter it out"):
        effective_ensemble(frame_of().query("quantity == 'path_share'"))
