"""The figure of initialisations: ordered by value, the skipped ones named, other quantities left alone."""

import matplotlib.collections
import pandas as pd
import pytest

from gradscope import figures


def test_schemes_are_ordered_by_value_and_the_skipped_are_named(examples):
    frame, _ = examples["initialisations"]()
    (axis,) = figures.initialisations(frame).axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["he", "as given", "orthogonal", "zero_gamma", "looks_linear"]
    drawn = {}
    for container in axis.containers:
        points, _, _ = container
        drawn |= {names[int(y)]: x for x, y in zip(points.get_xdata(), points.get_ydata(), strict=True)}
    assert drawn == {"he": 0.04, "as given": 0.05, "orthogonal": 0.09, "zero_gamma": 0.4, "looks_linear": 1.0}
    assert "skipped: fixup" in axis.get_xlabel()
    assert axis.get_legend_handles_labels()[1] == ["drawn anew", "as given"]


def test_whiskers_are_the_intervals(examples):
    frame, _ = examples["initialisations"]()
    (axis,) = figures.initialisations(frame).axes
    bars = [c for c in axis.collections if isinstance(c, matplotlib.collections.LineCollection)]
    ends = {(round(s[0][0], 6), round(s[1][0], 6)) for bar in bars for s in bar.get_segments()}
    assert {(0.02, 0.08), (0.01, 0.07), (0.06, 0.12), (0.3, 0.5), (1.0, 1.0)} == ends


def test_another_layer_and_several_seeds(examples):
    frame, _ = examples["initialisations"]()
    (axis,) = figures.initialisations(frame, site="conv1").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["he"]
    seeds = pd.concat(
        [frame.assign(seed=s, value=frame["value"] + 0.01 * s) for s in range(3)], ignore_index=True
    )
    assert "mean of 3 draws, 95 % interval" in figures.initialisations(seeds).axes[0].get_xlabel()
    with pytest.raises(ValueError, match="Name one of these as site="):
        figures.initialisations(frame, site="conv7")
