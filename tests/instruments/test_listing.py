"""The list of junctions as text, as a notebook shows it, and as a frame."""

import pytest
from networks import NETWORKS

from gradscope.instruments.junctions import Junctions, junctions
from gradscope.instruments.junctions.junction import Junction


def made(name="block:0", number=7):
    return Junction(name, "projection", 1, (4, 3), 0, ((7, 1), (6, 0)), ((7, 0),), 9, number)


def test_it_prints_as_a_table():
    found = Junctions([made(), made("another.block:0")])
    assert repr(found).splitlines() == [
        "index  junction         kind        level  shape   branches",
        "    0  block:0          projection      1  [4, 3]         2",
        "    0  another.block:0  projection      1  [4, 3]         2",
    ]


def test_without_junctions_it_says_so_everywhere():
    empty = Junctions([])
    assert repr(empty) == "no residual junctions" and "no residual junctions" in empty._repr_html_()
    assert empty.frame().empty and list(empty.frame().columns) == list(Junctions([made()]).frame().columns)


def test_a_notebook_sees_a_table_with_names_escaped_and_no_colours_of_ours():
    html = Junctions([made("<script>&:0")])._repr_html_()
    assert "&lt;script&gt;&amp;:0" in html and "<script" not in html
    assert "color" not in html and "background" not in html
    assert html.count("<td") == html.count("<th style") == 6


def test_the_frame_has_one_row_per_junction():
    frame = Junctions([made(), made(number=None)]).frame()
    assert list(frame.columns) == [
        *("index", "junction", "kind", "level", "shape", "branches", "skips", "number"),
    ]
    assert frame.iloc[0].tolist() == [0, "block:0", "projection", 1, "[4, 3]", 2, 1, 7]
    assert frame["number"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name", ["parallel transformer", "highway", "long skip", "plain"])
def test_table_and_frame_tell_what_was_found(name):
    specimen = NETWORKS[name]
    found = junctions(specimen.build(), specimen.inputs())
    frame = found.frame()
    assert frame["junction"].tolist() == [j.name for j in found]
    assert frame["branches"].tolist() == [len(j.branches) for j in found]
    assert all(j.name in repr(found) and j.name in found._repr_html_() for j in found)
