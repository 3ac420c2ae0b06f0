"""Sweeps: the same table however computed, nothing computed twice, nothing stale."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sweep_studies import conflicting, logged, noisy, threads

from gradscope.studies import sweep as module
from gradscope.studies.sweep import grid, source_hash, sweep


def called(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split())


def test_grid_has_all_combinations_the_last_axis_fastest():
    assert grid(depth=[10, 50], seed=range(2)) == [
        {"depth": 10, "seed": 0},
        {"depth": 10, "seed": 1},
        {"depth": 50, "seed": 0},
        {"depth": 50, "seed": 1},
    ]
    assert grid(name="plain", depth=3) == [{"name": "plain", "depth": 3}]


def test_conditions_are_the_first_columns_in_the_order_given():
    frame = sweep(noisy, grid(depth=[2, 1], seed=[0, 1]), workers=1, show=False)
    assert list(frame.columns) == ["depth", "seed", "quantity", "site", "value", "status"]
    assert list(frame["depth"]) == [2] * 6 + [1] * 6 and list(frame.index) == list(range(12))
    alone = noisy(1, 1)["value"]
    assert frame[(frame["depth"] == 1) & (frame["seed"] == 1)]["value"].tolist() == alone.tolist()


def test_one_and_two_workers_give_identical_frames(tmp_path):
    conditions = grid(depth=[1, 2], seed=range(3))
    one = sweep(noisy, conditions, workers=1, show=False)
    two = sweep(noisy, conditions, workers=2, cache=tmp_path, show=False)
    read = sweep(noisy, conditions, workers=2, cache=tmp_path, show=False)
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(one, read)
    assert len(list(tmp_path.iterdir())) == 6 and {p.suffix for p in tmp_path.iterdir()} == {".parquet"}


def test_a_second_call_reads(tmp_path):
    log, cells = tmp_path / "log", tmp_path / "cells"
    conditions = grid(depth=[1, 2])
    options = {"constants": {"log": str(log)}, "cache": cells, "workers": 1, "show": False}
    first = sweep(logged, conditions, **options)
    second = sweep(logged, conditions, **options)
    assert called(log) == [1, 2]
    pd.testing.assert_frame_equal(first, second)
    sweep(logged, grid(depth=[2, 4]), **options)
    assert called(log) == [1, 2, 4]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_sweep_resumes(tmp_path, workers):
    log, broken = tmp_path / "log", tmp_path / "broken"
    broken.touch()
    options = {"constants": {"log": str(log)}, "cache": tmp_path / "cells", "workers": workers, "show": False}
    with pytest.raises(RuntimeError, match="broken off"):
        sweep(logged, grid(depth=[1, 2, 3, 4]), **options)
    assert not list(tmp_path.rglob("*.part"))
    finished = len(list((tmp_path / "cells").glob("*.parquet")))
    assert finished >= (2 if workers == 1 else 0)
    broken.unlink()
    log.unlink()
    frame = sweep(logged, grid(depth=[1, 2, 3, 4]), **options)
    assert frame["value"].tolist() == [2.0, 4.0, 6.0, 8.0]
    assert len(called(log)) == 4 - finished and 3 in called(log)


def test_without_a_cache_nothing_is_kept(tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        sweep(logged, grid(depth=[1]), constants={"log": str(log)}, workers=1, show=False)
    assert called(log) == [1, 1] and list(tmp_path.iterdir()) == [log]


def test_a_key_depends_on_all_that_the_numbers_depend_on(tmp_path, monkeypatch):
    condition = {"depth": 1, "seed": 0}
    key = module._key(noisy, condition, None)
    assert key == module._key(noisy, dict(reversed(condition.items())), {})
    assert key == module._key(noisy, {"depth": np.int64(1), "seed": 0}, None)
    others = [
        module._key(noisy, {"depth": 1, "seed": 1}, None),
        module._key(noisy, condition, {"data": "abc"}),
        module._key(noisy, condition, {"data": "abd"}),
        module._key(logged, condition, None),
    ]
    monkeypatch.setattr(module, "source_hash", lambda: "an edited package")
    others.append(module._key(noisy, condition, None))
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "0.1")
    others.append(module._key(noisy, condition, None))
    monkeypatch.undo()
    copy = tmp_path / "copy.py"
    copy.write_bytes(Path(noisy.__code__.co_filename).read_bytes() + b"\n# edited\n")
    monkeypatch.setattr(module.inspect, "getfile", lambda study: str(copy))
    others.append(module._key(noisy, condition, None))
    assert len({key, *others}) == 1 + len(others)


def test_the_source_hash_reads_the_rooms_that_make_numbers():
    assert source_hash() == source_hash()
    hashes = {source_hash(), source_hash("measures"), source_hash("nets"), source_hash("nets", "training")}
    assert len(hashes) == 4 and all(len(digest) == 64 for digest in hashes)


def test_numpy_conditions_stay_numbers_and_objects_become_text():
    frame = sweep(noisy, grid(depth=np.arange(1, 3), seed=[0]), workers=1, show=False)
    assert frame["depth"].tolist() == [1] * 3 + [2] * 3
    assert pd.api.types.is_integer_dtype(frame["depth"])
    log = Path("nowhere") / "log"
    assert module._plain(log) == str(log) and module._plain(None) is None and module._plain(np.True_) is True


def test_each_cell_runs_on_one_thread_and_the_number_is_put_back():
    found = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert sweep(threads, grid(cell=[0, 1]), workers=1, show=False)["value"].tolist() == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(found)


def test_a_column_that_the_sweep_also_sets_is_refused_at_the_first_cell():
    with pytest.raises(ValueError, match=r"conflicting returns columns \['seed'\] .* Rename the condition"):
        sweep(conflicting, grid(seed=[1, 2]), workers=1, show=False)


def test_no_conditions_are_refused():
    with pytest.raises(ValueError, match="at least one condition, got none"):
        sweep(noisy, [], show=False)


def test_a_failing_write_leaves_no_part_behind(tmp_path, monkeypatch):
    def fail(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        sweep(noisy, grid(depth=[1], seed=[0]), cache=tmp_path, workers=1, show=False)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    old, young = tmp_path / "old.part", tmp_path / "young.part"
    for stray in (old, young):
        stray.write_bytes(b"half")
    os.utime(old, (0, 0))
    sweep(noisy, grid(depth=1, seed=0), cache=tmp_path, workers=1)
    assert not old.exists() and young.exists()


def test_axes_and_names_of_folders_are_understood(tmp_path):
    axes = {"depth": [1, 2], "seed": 0}
    swept = sweep(noisy, axes, cache=str(tmp_path), workers=1)
    pd.testing.assert_frame_equal(swept, sweep(noisy, grid(**axes), workers=1))
    assert len(list(tmp_path.glob("*.parquet"))) == 2
