"""The report is one file that needs nothing else, runs nothing, and appears whole."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradscope.report import Picture, files, render

HOSTILE = (
    '"><script>alert(1)</script><img src=x onerror=alert(2)>|`x`|[a](http://evil.example)'
    "\n{{ 7 * 7 }}${x}$ =\"'&amp;"
)
RECORD = {"gradscope": "0", "seeds": [0, 1], "durations_s": {"total": 1.25}}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_data(self, data):
        self.text += data


def read(path):
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_report_has_all_its_files(tmp_path, section):
    index = render(tmp_path / "report", "A report", [section()], RECORD)
    assert index == tmp_path / "report" / "index.html"
    assert set(tree(index.parent)) == {
        "index.html",
        "report.md",
        "provenance.json",
        *(f"figures/shattering-{name}.{kind}" for name in ("first", "second") for kind in ("svg", "png")),
        *(
            f"tables/{name}.{kind}"
            for name in ("shattering-readings", "verdicts")
            for kind in ("csv", "parquet")
        ),
    }
    assert set(json.loads((index.parent / "provenance.json").read_text())["files"]) == set(tree(index.parent))


def test_the_page_is_built_for_reading(tmp_path, section):
    _, page = read(render(tmp_path, "A report", [section(), section("lesions", "other words")], RECORD))
    assert page.tags.count("h1") == 1 and page.tags.count("main") == 1
    assert ("html", "lang", "en") in page.attributes
    assert page.tags.count("figure") == page.tags.count("figcaption") == 4
    images = [value for tag, key, value in page.attributes if (tag, key) == ("svg", "aria-label")]
    assert images == ["plain words", "other words", "plain words", "other words"]
    assert page.attributes.count(("svg", "role", "img")) == 4
    assert "Of 2 claims put to the test: 2 hold." in page.text and "✓ holds" in page.text
    assert "0.3333" in page.text and "NaN" in page.text and "tables/shattering-readings.csv" in page.text


def test_ids_are_unique_and_every_reference_is_found(tmp_path, section):
    text, page = read(render(tmp_path, "A report", [section(), section("lesions")], RECORD))
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert references and set(references) <= set(ids)


def test_nothing_is_requested_and_nothing_runs(tmp_path, section):
    text, page = read(render(tmp_path, "A report", [section()], RECORD))
    assert "script" not in page.tags and not any(key.startswith("on") for _, key, _ in page.attributes)
    for tag, key, value in page.attributes:
        if key in ("href", "src", "xlink:href", "data", "action", "srcset"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, key, value)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", "content", policy) in page.attributes


def test_hostile_words_are_text_everywhere(tmp_path, section):
    hostile = section("shattering", HOSTILE)
    index = render(tmp_path, HOSTILE, [hostile], {HOSTILE: HOSTILE, "seeds": [HOSTILE]}, summary=HOSTILE)
    text, page = read(index)
    assert (
        "script" not in page.tags
        and "<script" not in text
        and not any(k == "onerror" for _, k, _ in page.attributes)
    )
    assert page.text.count("alert(1)") > 10 and "{{ 7 * 7 }}" in page.text
    assert [tag for tag in page.tags if tag == "img"] == []
    markdown = (tmp_path / "report.md").read_text()
    assert (
        "<script" not in markdown and "<img" not in markdown and not re.search(r"(?<!\\)\]\(http", markdown)
    )
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5, 3}
    for path in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in path.read_text()


def test_formulas_are_disarmed_in_tables(tmp_path, section):
    frame = pd.DataFrame({"text": ["=1+1", "+x", "fine"]})
    render(tmp_path, "A report", [section(tables={"t": frame})], RECORD)
    assert (tmp_path / "tables" / "shattering-t.csv").read_text().split() == ["text", "'=1+1", "'+x", "fine"]


def test_a_heavy_figure_becomes_pixels_and_a_long_table_its_first_rows(tmp_path, section):
    figure = Figure()
    figure.subplots().scatter(*np.random.default_rng(0).random((2, 3000)))
    long = pd.DataFrame({"row": range(500)})
    pictures = (Picture("heavy", figure, "many points", "a cloud of points"),)
    index = render(tmp_path, "A report", [section(pictures=pictures, tables={"long": long})], RECORD)
    text, page = read(index)
    assert ("img", "alt", "a cloud of points") in page.attributes
    assert "The first 50 of 500 rows" in page.text and "<td>49</td>" in text and "<td>50</td>" not in text
    assert index.stat().st_size < 2_000_000


def test_a_second_report_replaces_the_first_and_nothing_else(tmp_path, section):
    render(tmp_path, "Old", [section(), section("lesions")], RECORD)
    (tmp_path / "figures" / "mine.png").write_text("mine")
    (tmp_path / "shattering").mkdir()
    (tmp_path / "shattering" / "readings.csv").write_text("mine")
    render(tmp_path, "New", [section()], RECORD)
    after = tree(tmp_path)
    assert b"New" in after["index.html"] and after["shattering/readings.csv"] == b"mine"
    assert after["figures/mine.png"] == b"mine"
    assert not any("lesions" in name for name in after)


def test_the_same_report_gives_the_same_bytes(tmp_path, section):
    for folder in ("one", "two"):
        render(tmp_path / folder, "A report", [section()], RECORD)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("when", [0, 3, 8])
def test_an_interruption_leaves_the_old_report(tmp_path, section, monkeypatch, when):
    render(tmp_path, "Old", [section()], RECORD)
    before, replace, calls = tree(tmp_path), files.os.replace, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > when:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, "New", [section(), section("lesions")], RECORD)
    assert tree(tmp_path) == before


def test_a_failure_in_the_middle_of_a_first_report_leaves_nothing(tmp_path, section):
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        render(tmp_path / "new", "A report", [section(), section("../../lesions")], RECORD)
    assert list(tmp_path.iterdir()) == []


def test_names_that_occur_twice_are_refused(tmp_path, section):
    with pytest.raises(ValueError, match=r"\['shattering'\] occur more than once"):
        render(tmp_path, "A report", [section(), section()], RECORD)


def test_a_forged_list_of_files_cannot_remove_what_is_not_ours(tmp_path, section):
    out = tmp_path / "out"
    render(out, "Old", [section()], RECORD)
    (tmp_path / "mine").write_text("mine")
    (out / "provenance.json").write_text(
        '{"files": ["../mine", "figures/../../mine", "/etc/x", 3, "figures/.."]}'
    )
    render(out, "New", [section()], RECORD)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("missing", ["caption", "alternative"])
def test_a_picture_without_words_is_refused(figure_of, missing):
    words = {"caption": "what to see", "alternative": "what is drawn", missing: " "}
    with pytest.raises(ValueError, match=f"no {missing}"):
        Picture("curve", figure_of(), **words)
