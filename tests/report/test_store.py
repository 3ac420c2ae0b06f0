"""What is kept comes back exactly, appears whole, and cannot run in a spreadsheet."""

import errno
import json
import math

import numpy as np
import pandas as pd
import pytest

from gradscope.report import files, keep

FRAME = pd.DataFrame(
    {
        "family": ["plain", "=cmd()", None],
        "seed": [0, 1, 2],
        "value": [1 / 3, math.nan, -math.inf],
        "status": ["ok", "-x", "@y"],
        "single": np.array([0.1, np.nan, 3], dtype=np.float32),
    }
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_frame_comes_back_exactly(tmp_path, figure_of):
    keep(tmp_path / "a" / "b", FRAME, provenance={"seeds": [0, 1]}, curve=figure_of())
    folder = tmp_path / "a" / "b"
    assert names(folder) == ["curve.png", "curve.svg", "provenance.json", "readings.csv", "readings.parquet"]
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "readings.parquet"), FRAME, check_exact=True)
    assert json.loads((folder / "provenance.json").read_text()) == {"seeds": [0, 1]}


def test_numbers_in_the_csv_are_exact_too(tmp_path):
    keep(tmp_path, FRAME)
    read = pd.read_csv(tmp_path / "readings.csv")
    np.testing.assert_array_equal(read["value"], FRAME["value"])


def test_cells_that_a_spreadsheet_would_run_are_disarmed(tmp_path):
    keep(tmp_path, FRAME.rename(columns={"status": "=status"}))
    text = (tmp_path / "readings.csv").read_text()
    for cell in ("'=cmd()", "'-x", "'@y", "'=status"):
        assert cell in text
    assert ",-inf," in text, "a negative number is no formula"


def test_the_same_figure_gives_the_same_bytes(tmp_path, figure_of):
    for folder in ("one", "two"):
        keep(tmp_path / folder, FRAME, curve=figure_of())
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("when", range(4))
def test_an_interruption_leaves_what_was_there(tmp_path, figure_of, monkeypatch, when):
    keep(tmp_path, FRAME, curve=figure_of("old"))
    (tmp_path / "mine.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace, calls = files.os.replace, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > when:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, FRAME.head(1), curve=figure_of("new"), more=figure_of("new"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_first_run_that_fails_leaves_no_folder(tmp_path, figure_of):
    class Broken(type(figure_of())):
        def savefig(self, *arguments, **options):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        keep(tmp_path / "new", FRAME, curve=Broken())
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_said_with_the_folder_and_the_remedy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(
        OSError, match=r"cannot write results \(No space left on device\)\. Choose another"
    ) as caught:
        keep(tmp_path / "out", FRAME)
    assert caught.value.filename == str(tmp_path / "out") and not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileExistsError, match="cannot write results"):
        keep(tmp_path / "out", FRAME)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", ".x", "", "x.", "con", "NUL.svg", "x" * 101, "a b", "ü", "x\n"]
)
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        keep(tmp_path / "out", FRAME, name=name)
    assert not (tmp_path / "out").exists()


def test_a_column_of_mixed_types_is_named(tmp_path):
    with pytest.raises(ValueError, match="mixed"):
        keep(tmp_path, pd.DataFrame({"mixed": [1, "a", [2]]}))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_swept_away(tmp_path):
    import os

    old, young = tmp_path / ".gradscope-partial-old", tmp_path / ".gradscope-partial-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    keep(tmp_path, FRAME)
    assert not old.exists() and young.exists()
