"""How do results reach the disk? Whole or not at all, under names that stay inside their folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}
PARTIAL = ".gradscope-partial-"
STALE_SECONDS = 3600


def file_name(name: str) -> str:
    """The name itself, if it can be a file on every system and cannot leave its folder.

    Raises:
        ValueError: Other letters than `A-Za-z0-9._-`, a leading or closing dot, a name that Windows
            reserves, or more than 100 letters.
    """
    if not NAME.fullmatch(name) or name.endswith(".") or name.split(".")[0].lower() in RESERVED:
        raise ValueError(
            f"{name[:120]!r} cannot be the name of a file. Take 1 to 100 of the letters A-Z a-z 0-9 . _ - , "
            "not beginning with a dot, and none of the names Windows reserves."
        )
    return name


@contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """A hidden folder to write into; at the end its files move into `folder`, together.

    It lies inside `folder`, so that moving is renaming, also where `folder` is a mount. A reader
    sees the old file or the new one, never half of one. When the body or a move raises, the old
    files are back and nothing new is left; other files in `folder` are never touched.

    Args:
        folder: Made with its parents where it is missing.

    Raises:
        OSError: Of the kind the system raised, naming the folder and what to do.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        new = partial / "new"
        new.mkdir()
        yield new
        _move(new, folder, partial / "old")
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if made and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _move(new: Path, folder: Path, old: Path) -> None:
    """Rename every file into place, or put every old one back."""
    moved: list[tuple[Path, Path | None]] = []
    try:
        for source in sorted(path for path in new.rglob("*") if path.is_file()):
            _to_disk(source)
            target = folder / source.relative_to(new)
            target.parent.mkdir(parents=True, exist_ok=True)
            kept: Path | None = None
            if target.exists():
                kept = old / source.relative_to(new)
                kept.parent.mkdir(parents=True, exist_ok=True)
                # A copy, not a rename: a reader finds the old file until the new one replaces it.
                shutil.copy2(target, kept)
            moved.append((target, kept))
            os.replace(source, target)
    except BaseException:
        for target, kept in reversed(moved):
            target.unlink(missing_ok=True)
            if kept is not None:
                shutil.move(kept, target)
        for parent in sorted({target.parent for target, _ in moved}, reverse=True):
            if parent != folder and parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sweep(folder: Path) -> None:
    """Remove what a killed run left; another run at work in the same folder is younger than that."""
    for stray in folder.glob(f"{PARTIAL}*"):
        if time.time() - stray.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(stray, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> OSError:
    if error.errno is None:
        return error
    message = (
        f"cannot write results ({error.strerror}). Choose another folder, or free space and permissions there"
    )
    return OSError(error.errno, message, str(folder))
