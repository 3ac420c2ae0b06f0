"""Ctrl-C in mid-run: one line, exit 130, no half-written report, nobody left at work, and a restart resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The conditioning analysis alone, at a size of some seconds; its cells run in two processes.
DRIVER = """
import sys
from analyses import conditioning, lesions
from gradscope.cli import main, reporting

reporting.ANALYSES = ("conditioning",)
conditioning.PRESETS["small"] = conditioning.Preset((2, 3, 4), trained_layers=8, epochs=1, images=16, steps=4)
lesions.PRESETS["small"] = lesions.Preset()
sys.argv[1:] = ["report", "--preset", "small", "--seeds", "2", "--workers", "2", "--out", sys.argv[1]]
sys.exit(main())
"""


@pytest.fixture
def start(tmp_path):
    """Start the command in a process group of its own, as a shell does; whatever is left of it is ended."""
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    running = []

    def begin(out: Path) -> subprocess.Popen:
        command = [sys.executable, str(driver), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (tmp_path / "told").open("w") as told:
            running.append(
                subprocess.Popen(
                    command, stdout=told, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                )
            )
        return running[-1]

    yield begin
    for process in running:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cells(out: Path) -> dict[str, int]:
    """Finished cells and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / ".cache" / "cells").glob("*.parquet")}


def until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(group: int) -> list[str]:
    """Processes of a group that still run; one that has ended and waits to be counted is none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(of) == group and state != "Z":
                found.append(entry.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted in /proc")
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_interrupted_and_begun_again(tmp_path, start, how):
    out = tmp_path / "out"
    first = start(out)
    until(lambda: len(cells(out)) >= 3 or first.poll() is not None, 60)
    if how == "Ctrl-C":  # A terminal sends it to all processes of the command.
        os.killpg(first.pid, signal.SIGINT)
    else:
        os.kill(first.pid, signal.SIGTERM)
    assert first.wait(timeout=30) == 130
    told = (tmp_path / "told").read_text()
    # Some seconds on a loaded machine, before joblib's last helper has noticed.
    until(lambda: not alive(first.pid), 20)
    finished = cells(out)
    assert len(finished) >= 3 and "Traceback" not in told
    # joblib's tracker, a process of its own, may report a semaphore that somebody else has already removed.
    ours = [
        line for line in told.splitlines() if "resource_tracker" not in line and "warnings.warn(" not in line
    ]
    assert ours == [
        "== conditioning",
        "interrupted: what was finished is kept; the same command resumes.",
    ]
    assert [path.name for path in out.iterdir()] == [".cache"]
    assert not list(out.rglob("*.part"))
    if how == "SIGTERM":
        return

    again = start(out)
    assert again.wait(timeout=120) == 0
    after = cells(out)
    assert len(after) > len(finished) and finished.items() <= after.items()
    assert (out / "index.html").is_file() and (out / "provenance.json").is_file()
