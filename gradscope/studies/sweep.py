"""A study over a grid of conditions: computed once, kept, and resumed where it was interrupted."""

import hashlib
import inspect
import itertools
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache as remembered
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from gradscope.progress import progress

if TYPE_CHECKING:
    import pandas as pd

Condition = dict[str, Any]


def grid(**axes: Iterable[Any] | Any) -> list[Condition]:
    """All combinations of the axes' values, numpy's numbers as Python's; the last axis varies fastest.

    Example:
        >>> grid(depth=[10, 50], seed=range(2))
        [{'depth': 10, 'seed': 0}, {'depth': 10, 'seed': 1}, {'depth': 50, 'seed': 0}, {'depth': 50, 'seed': 1}]
    """
    values = [[v] if isinstance(v, str) or not isinstance(v, Iterable) else list(v) for v in axes.values()]
    values = [[v.item() if isinstance(v, numpy.generic) else v for v in axis] for axis in values]
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*values)]


def sweep(
    study: Callable[..., "pd.DataFrame"],
    conditions: Sequence[Condition] | Mapping[str, Any],
    *,
    cache: str | Path | None = None,
    key: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    workers: int | None = None,
    show: bool | None = None,
) -> "pd.DataFrame":
    """Run `study(**condition)` for every condition and stack the frames.

    Each cell runs on one thread, several cells at a time in processes of their own, so the table depends
    neither on their number nor on their order. With a cache, finished cells are files: an interrupted
    sweep resumes, and a second call reads. A cell's key holds its condition, `key`, and a hash of the
    package's source and of the study's own file, so no number survives an edit.

    Args:
        study: A function of the module's top level, returning a tidy frame.
        conditions: Its arguments, as `grid` lists them, or the axes of a grid; they become the first columns.
        cache: Folder for finished cells; None keeps nothing.
        key: What else the numbers depend on, such as the hash of a data set.
        constants: Further arguments of the study on which the numbers do not depend, such as the folder
            of its checkpoints; neither columns nor part of a key.
        workers: Processes; None uses the machine's cores, 1 stays in this process.
        show: As in `progress`.

    Raises:
        ValueError: No conditions; or the study returns a column that the sweep also sets.
    """
    import pandas as pd

    if isinstance(conditions, Mapping):
        conditions = grid(**conditions)
    cache = None if cache is None else Path(cache)
    if not conditions:
        raise ValueError("sweep needs at least one condition, got none.")
    paths = [None if cache is None else cache / f"{_key(study, c, key)}.parquet" for c in conditions]
    missing = [place for place, path in enumerate(paths) if path is None or not path.exists()]
    frames: dict[int, pd.DataFrame] = {
        place: _labelled(pd.read_parquet(path), conditions[place], study)
        for place, path in enumerate(paths)
        if path is not None and place not in missing
    }
    if cache is not None:
        _sweep_strays(cache)
    workers = min(len(missing), workers or os.cpu_count() or 1)
    with progress(_name(study).strip("_").replace("_", " "), len(missing), show=show) as advance:
        for place, frame in _computed(study, conditions, missing, paths, workers, dict(constants or {})):
            frames[place] = _labelled(frame, conditions[place], study)
            advance(1)
    return pd.concat([frames[place] for place in range(len(conditions))], ignore_index=True)


def _computed(
    study: Callable[..., "pd.DataFrame"],
    conditions: Sequence[Condition],
    places: Sequence[int],
    paths: Sequence[Path | None],
    workers: int,
    constants: Mapping[str, Any],
) -> Iterable[tuple[int, "pd.DataFrame"]]:
    if workers <= 1:
        threads = torch.get_num_threads()
        try:
            for place in places:
                yield _cell(study, conditions[place], constants, place, paths[place])
        finally:
            torch.set_num_threads(threads)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", n_jobs=workers, inner_max_num_threads=1), warnings.catch_warnings():
        # Workers that have grown are replaced between cells, and unfinished cells are given up when one
        # fails: both are meant, and neither loses a finished cell.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        warnings.filterwarnings("ignore", message=".*tasks which were still being processed")
        calls = (
            delayed(_worker_cell)(study, conditions[place], constants, place, paths[place])
            for place in places
        )
        with _deaf_to_interrupts():
            results = Parallel(return_as="generator_unordered", batch_size=1)(calls)
        yield from results


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes and threads that start inside never hear Ctrl-C, which the terminal sends to all of them.

    It is this process that ends them, and says so in one line. What comes meanwhile is heard on leaving.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from joblib.externals.loky.backend import resource_tracker

    # Starting the tracker takes the block off again, so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker_cell(*arguments: Any) -> tuple[int, "pd.DataFrame"]:
    """A cell in a process of its own, which leaves Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _cell(*arguments)


def _cell(
    study: Callable[..., "pd.DataFrame"],
    condition: Condition,
    constants: Mapping[str, Any],
    place: int,
    path: Path | None,
) -> tuple[int, "pd.DataFrame"]:
    torch.set_num_threads(1)
    frame = study(**condition, **constants)
    if path is not None:
        _write(frame, path)
    return place, frame


def _sweep_strays(cache: Path) -> None:
    """Remove what processes that were killed while writing have left; a cell takes no hour to write."""
    for stray in cache.glob("*.part"):
        if time.time() - stray.stat().st_mtime > 3600:
            stray.unlink(missing_ok=True)


def _write(frame: "pd.DataFrame", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        frame.to_parquet(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _labelled(frame: "pd.DataFrame", condition: Condition, study: Callable[..., Any]) -> "pd.DataFrame":
    both = [name for name in condition if name in frame.columns]
    if both:
        raise ValueError(
            f"{_name(study)} returns columns {both} that the sweep also sets, so one of the two would be lost. "
            "Rename the condition or the column."
        )
    labels = {name: _plain(value) for name, value in condition.items()}
    return frame.assign(**labels)[[*labels, *frame.columns]]


def _plain(value: Any) -> Any:
    """A value that a column can hold: numbers and texts as they are (numpy's too), others as their text."""
    value = value.item() if isinstance(value, numpy.generic) else value
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _name(study: Callable[..., Any]) -> str:
    return str(getattr(study, "__name__", type(study).__name__))


def _own_source(study: Callable[..., Any]) -> bytes:
    """The file a study stands in; of one typed into a notebook, its own lines."""
    try:
        return Path(inspect.getfile(study)).read_bytes()
    except (OSError, TypeError):
        pass
    try:
        return inspect.getsource(study).encode()
    except (OSError, TypeError):
        raise ValueError(
            "A sweep with a cache has to read its study's source, to notice when it changes, but "
            f"{study!r} has none. Write it as a function in a file or a cell, or leave out cache."
        ) from None


def _key(study: Callable[..., Any], condition: Condition, further: Mapping[str, Any] | None) -> str:
    facts = {
        "study": f"{study.__module__.rpartition('.')[2]}.{getattr(study, '__qualname__', repr(study))}",
        "condition": {name: _plain(value) for name, value in condition.items()},
        "further": dict(further or {}),
        "source": source_hash(),
        "file": hashlib.sha256(_own_source(study)).hexdigest(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


@remembered
def source_hash(*rooms: str) -> str:
    """Hash of the source that numbers come from; of some rooms or files of the package only, if named."""
    folder = Path(sys.modules["gradscope"].__file__ or "").parent
    chosen = rooms or (
        "curvature",
        "gradients",
        "instruments",
        "measures",
        "nets",
        "probes",
        "studies",
        "theory",
        "training",
    )
    always = () if rooms else ("data.py", "problem.py")
    files = [
        f
        for room in (*chosen, *always)
        for f in ([folder / room] if room.endswith(".py") else (folder / room).rglob("*.py"))
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
