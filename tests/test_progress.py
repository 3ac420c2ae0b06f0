"""Progress: a bar on a terminal, lines in a log where asked for, else silence."""

import pytest

from gradscope import progress as module
from gradscope.progress import progress


def test_the_end_is_always_said(capsys):
    with progress("lesions", 3, show=True) as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr().err.splitlines() == ["lesions: 3/3, 0 s"]


def test_lines_come_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 4.0, 11.0, 12.0, 25.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("cells", 5, show=True) as advance:
        for _ in range(4):
            advance(1)
    assert capsys.readouterr().err.splitlines() == ["cells: 2/5, 11 s", "cells: 4/5, 25 s"]


@pytest.mark.parametrize(("total", "show"), [(3, False), (3, None), (0, True)])
def test_silence(capsys, total, show):
    with progress("cells", total, show=show) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with progress("cells", 2) as advance:
        advance(2)
    assert "cells" in capsys.readouterr().err
