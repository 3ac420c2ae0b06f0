"""The main job: six analyses, one report that needs nothing else, the same on every call."""

import html
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tiny_reports import ANALYSES, first_run, tiny, tiny_analyses

from gradscope.cli.example import write_example
from gradscope.cli.reporting import run_all
from gradscope.studies import sweep as sweep_module


def made(out: Path) -> Path:
    """The whole report of the tiny analyses, from cells that are kept."""
    if not (out / ".cache").exists():
        shutil.copytree(Path(first_run()[0].name) / ".cache", out / ".cache")
    with tiny_analyses(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "_cell", None)
        return run_all(tiny(out))


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("report")).parent


def tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_report_has_every_part(report):
    files = set(tree(report))
    assert {"index.html", "report.md", "provenance.json", "tables/verdicts.csv"} <= files
    for name, section in first_run()[1].items():
        for picture in section.pictures:
            assert {f"figures/{name}-{picture.name}.{kind}" for kind in ("svg", "png")} <= files
        for table in section.tables:
            assert {f"tables/{name}-{table}.{kind}" for kind in ("csv", "parquet")} <= files
    assert files == set(json.loads((report / "provenance.json").read_text())["files"])


def test_the_page_needs_nothing_and_runs_nothing(report):
    text = (report / "index.html").read_text()
    assert "<script" not in text and not re.search(r"\son[a-z]+=", re.sub(r">[^<]*<", "><", text))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    for address in re.findall(r"""(?:src|href|data|action)=["']([^"']*)""", text):
        assert address.startswith(("#", "data:image/png;base64,")), address[:80]
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    fetched = set(re.findall(r"https?://[^\"' <)]+", text)) - {"http://www.w3.org/2000/svg"}
    assert fetched <= {"http://www.w3.org/1999/xlink"}


def test_verdicts_and_one_picture_of_each_come_first(report):
    text = (report / "index.html").read_text()
    begins = [
        text.index(html.escape(section.question).replace("&#x27;", "&#39;"))
        for section in first_run()[1].values()
    ]
    assert begins == sorted(begins)
    assert text.count("<figure") >= sum(len(s.pictures) for s in first_run()[1].values())
    verdicts = pd.read_csv(report / "tables" / "verdicts.csv")
    assert set(verdicts["section"]) == set(ANALYSES) and verdicts["verdict"].notna().all()
    assert f"{len(verdicts)} published or derived statements" in text


def test_figures_are_there_for_who_cannot_see_them(report):
    text = (report / "index.html").read_text()
    for section in first_run()[1].values():
        for picture in section.pictures:
            assert text.count(picture.alternative.replace("'", "&#39;")) >= 1, picture.name
    assert text.count('role="img"') + text.count("<img ") == text.count("<figcaption")


def test_provenance_says_how_and_names_nobody(report):
    facts = json.loads((report / "provenance.json").read_text())
    assert (
        facts["seeds"] == [0, 1] and facts["data"]["name"] == "digits" and len(facts["data"]["sha256"]) == 64
    )
    assert facts["configuration"]["preset"] == "tiny" and set(facts["durations_s"]) == set(ANALYSES)
    assert {"torch", "numpy", "python"} <= set(facts["versions"])
    for name, content in tree(report).items():
        assert str(report).encode() not in content and str(Path.home()).encode() + b"/" not in content, name


def test_a_second_call_computes_nothing_and_writes_the_same(report, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(report, again)
    made(again)
    before, after = tree(report), tree(again)
    # Durations and date differ, and stand on the page and in the Markdown too.
    timed = {"provenance.json", "index.html", "report.md"}
    assert {name: c for name, c in before.items() if name not in timed} == {
        name: c for name, c in after.items() if name not in timed
    }
    for name in ("index.html", "report.md"):
        old, new = (text[name].decode().splitlines() for text in (before, after))
        differing = [line for line, other in zip(old, new, strict=True) if line != other]
        assert all(re.search(r"durations_s|durations\\_s|date", line) for line in differing), differing


def test_an_example_is_small_and_whole(report, tmp_path):
    page = write_example(report, tmp_path / "example")
    files = tree(tmp_path / "example")
    # Thirteen analyses, each with its pictures and small tables.
    assert sum(map(len, files.values())) < 13 * 200_000 and page.name == "report.md"
    text = page.read_text()
    for address in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert address in files, address
    assert text.count("](figures/") >= 10
    assert {"report.md", "provenance.json", "tables/verdicts.csv"} <= set(files)
    assert not any(name.endswith((".parquet", ".html")) for name in files)


def test_an_example_names_only_tables_that_it_has(report, tmp_path):
    text = write_example(report, tmp_path / "example").read_text()
    named = set(re.findall(r"\]\((tables/[^)]+)\)", text))
    assert named <= set(tree(tmp_path / "example"))


def test_an_example_of_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no report.md. Run gradscope report first"):
        write_example(tmp_path, tmp_path / "example")


def test_an_example_replaces_an_example_and_nothing_else(report, tmp_path):
    folder = tmp_path / "example"
    write_example(report, folder)
    (folder / "tables" / "stale.csv").write_text("old")
    write_example(report, folder)
    assert not (folder / "tables" / "stale.csv").exists()
    (folder / "letters.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"letters\.txt there is no part of one"):
        write_example(report, folder)
    with pytest.raises(ValueError, match="replaces the whole folder"):
        write_example(report, report)
    assert (folder / "letters.txt").read_text() == "mine" and (report / "index.html").is_file()
