"""Showing that long work moves: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_SECONDS = 10.0


@contextmanager
def progress(description: str, total: int, *, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`.

    Args:
        description: What is going on, in a few words.
        total: How many steps there are; with 0 nothing is shown.
        show: None shows a bar on a terminal and nothing elsewhere; True also shows a line at most every
            ten seconds elsewhere, as in a log; False shows nothing.
    """
    terminal = sys.stderr.isatty()
    if total == 0 or show is False or (show is None and not terminal):
        yield lambda steps: None
    elif terminal:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)
    else:
        yield _lines(description, total)


def _lines(description: str, total: int) -> Callable[[int], None]:
    start = said = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, said
        done += steps
        now = time.monotonic()
        if done == total or now - said >= LINE_EVERY_SECONDS:
            said = now
            print(f"{description}: {done}/{total}, {now - start:.0f} s", file=sys.stderr, flush=True)

    return advance
