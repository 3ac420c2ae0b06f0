"""The picture of a network: every junction is in it once, on its lane, told apart without colour."""

from io import BytesIO
from itertools import pairwise

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle

from gradscope import figures
from gradscope.figures.structure import KINDS, OTHER, structure


def frame_of(rows):
    """Rows of (kind, level, shape, branches) in forward order."""
    table = [(i, f"block.{i}:0", *row) for i, row in enumerate(rows)]
    return pd.DataFrame(table, columns=["index", "junction", "kind", "level", "shape", "branches"])


def resnet(blocks):
    stages = [
        ("projection" if i and i % (blocks // 3) == 0 else "identity", 3 * i // blocks) for i in range(blocks)
    ]
    return frame_of([(kind, 0, f"[8, {16 * 2**stage}]", 1) for kind, stage in stages])


NESTED = frame_of(
    [
        ("identity", 1, "[4]", 1),
        ("identity", 2, "[4]", 1),
        ("identity", 1, "[4]", 1),
        ("identity", 0, "[4]", 1),
    ]
)
SEVERAL = {
    "three": resnet(3),
    "two hundred": resnet(200),
    "nested": NESTED,
    "every kind": frame_of([(kind, 0, "[4]", 2) for kind in [*KINDS, "a kind of tomorrow"]]),
}


def marked(figure):
    """Where the junctions' marks are: (x, y) of every line with a marker, inside its row."""
    found = set()
    for axis in figure.axes:
        low, high = axis.get_xlim()
        for line in axis.get_lines():
            (x, *_), (y, *_) = line.get_xdata(), line.get_ydata()
            if line.get_marker() not in ("None", None, "") and low <= x <= high:
                found.add((x, y))
    return sorted(found)


@pytest.mark.parametrize("name", SEVERAL)
def test_every_junction_stands_on_its_lane(name):
    frame = SEVERAL[name]
    places = marked(structure(frame))
    assert [x for x, _ in places] == list(range(len(frame)))
    lanes = [y for _, y in places]
    for one, other in ((a, b) for a in range(len(frame)) for b in range(len(frame)) if len(frame) < 10):
        deeper = frame["level"][one] > frame["level"][other]
        assert (lanes[one] < lanes[other]) == deeper


@pytest.mark.parametrize("name", ["nested", "every kind"])
def test_the_same_frame_gives_the_same_bytes_and_is_not_changed(name):
    frame = SEVERAL[name]
    copy, before = frame.copy(), dict(mpl.rcParams)
    pictures = []
    for _ in range(2):
        out = BytesIO()
        structure(frame).savefig(out, format="svg")
        pictures.append(out.getvalue())
    assert pictures[0] == pictures[1] and b"<text" in pictures[0]
    pd.testing.assert_frame_equal(frame, copy)
    assert {key: mpl.rcParams[key] for key in before} == before


def test_kinds_differ_in_more_than_colour():
    looks = [*KINDS.values(), OTHER]
    assert len({look.marker for look in looks}) == len({look.hatch for look in looks}) == len(looks)
    figure = structure(SEVERAL["every kind"])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["identity", "projection"] and "branches (no skip)" in labels


def test_skips_are_straight_and_branches_are_curves_with_a_box():
    axis = structure(frame_of([("identity", 0, "[4]", 2), ("branches", 0, "[4]", 3)])).axes[0]
    straight = [line for line in axis.get_lines() if len(line.get_xdata()) == 2]
    assert len(straight) == 1, "branches have no skip"
    assert sum(isinstance(patch, PathPatch) for patch in axis.patches) == 5
    assert sum(type(patch) is Rectangle and bool(patch.get_hatch()) for patch in axis.patches) == 3


def test_a_branch_that_holds_junctions_has_no_box_and_begins_before_them():
    axis = structure(NESTED).axes[0]
    outer = next(line for line in axis.get_lines() if len(line.get_xdata()) == 2 and line.get_xdata()[1] == 3)
    inner = next(line for line in axis.get_lines() if len(line.get_xdata()) == 2 and line.get_xdata()[1] == 0)
    assert outer.get_xdata()[0] < inner.get_xdata()[0]
    assert sum(type(patch) is Rectangle for patch in axis.patches) == 2


def test_many_branches_are_counted_rather_than_drawn():
    axis = structure(frame_of([("identity", 0, "[4]", 12)])).axes[0]
    assert "×12" in [text.get_text() for text in axis.texts]


def test_stages_are_named_and_tinted():
    axis = structure(resnet(6)).axes[0]
    assert [text.get_text() for text in axis.texts] == ["[8, 16]", "[8, 32]", "[8, 64]"]
    assert sum(type(patch) is Rectangle and patch.get_linewidth() == 0 for patch in axis.patches) == 1


@pytest.mark.parametrize(("junctions", "rows"), [(3, 1), (6, 1), (54, 4)])
def test_long_networks_are_wrapped_and_their_names_thinned_until_they_fit(junctions, rows):
    figure = structure(resnet(junctions))
    assert len(figure.axes) == rows
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axis in figure.axes:
        boxes = [label.get_window_extent(renderer) for label in axis.get_xticklabels() if label.get_text()]
        assert boxes and not any(a.overlaps(b) for a, b in pairwise(boxes))
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names[0] == "block.0:0" and (len(names) == junctions) == (junctions <= 6)


def test_long_names_keep_their_end():
    frame = frame_of([("identity", 0, "[4]", 1)]).assign(junction="encoder.layers.11.self_attention.output:0")
    (label,) = structure(frame).axes[0].get_xticklabels()
    assert label.get_text() == "…lf_attention.output:0"


@pytest.mark.parametrize("frame", [NESTED.iloc[:0], pd.DataFrame()])
def test_a_plain_network_is_said_to_have_none(frame):
    axis = structure(frame).axes[0]
    assert [text.get_text() for text in axis.texts] == ["no residual junctions"]


def test_given_axes_are_divided_and_their_figure_returned():
    figure = Figure()
    assert structure(resnet(54), ax=figure.subplots()) is figure


def test_a_list_of_junctions_will_do_for_its_frame():
    class Listed:
        def frame(self):
            return NESTED

    assert marked(structure(Listed())) == marked(figures.structure(NESTED))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"structure draws the columns .* lacks \['kind'\]"):
        structure(NESTED.drop(columns="kind"))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        structure(NESTED, per_row=0)
