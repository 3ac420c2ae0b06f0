"""Where do results stay? A frame as Parquet (exact) and CSV (for reading), its figures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..figures.style import house_style
from .files import file_name, replacing
from .provenance import plain

DANGEROUS = ("=", "+", "-", "@", "\t", "\r")


def keep(
    folder: str | Path,
    frame: pd.DataFrame,
    name: str = "readings",
    provenance: Mapping[str, Any] | None = None,
    **figures: Figure,
) -> Path:
    """Write a frame, its figures and its provenance, all of them or none.

    Args:
        folder: Made where it is missing; other files in it are left alone.
        frame: Kept as `<name>.parquet`, exact, and `<name>.csv`, for reading.
        name: Letters, digits, `.`, `_`, `-`.
        provenance: As `provenance()` makes it, written to `provenance.json`.
        figures: Written to `<key>.svg` and `<key>.png` (150 dots per inch).

    Returns:
        The folder.

    Raises:
        ValueError: A name that cannot be a file's; a column whose cells Parquet cannot hold.
        OSError: The folder cannot be written; it is named, with what to do.
    """
    with replacing(folder) as new:
        write_frame(new, file_name(name), frame)
        for key, figure in figures.items():
            write_figure(new, file_name(key), figure)
        if provenance is not None:
            write_json(new / "provenance.json", provenance)
    return Path(folder)


def write_frame(folder: Path, name: str, frame: pd.DataFrame) -> None:
    """`<name>.parquet` and `<name>.csv`.

    In the CSV, text that a spreadsheet would run as a formula gets a leading apostrophe; NaN is
    written as NaN, so that it differs from an empty text.
    """
    import pyarrow

    try:
        frame.to_parquet(folder / f"{name}.parquet", engine="pyarrow", index=False)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError) as error:
        raise ValueError(
            f"The frame {name!r} cannot be kept as Parquet: {error}. Give each column cells of one type."
        ) from error
    safe = frame.rename(columns=disarm)
    for i, column in enumerate(safe.columns):
        if not pd.api.types.is_numeric_dtype(safe.dtypes.iloc[i]):
            safe[column] = safe[column].map(disarm).astype(object)
    safe.to_csv(folder / f"{name}.csv", index=False, na_rep="NaN", lineterminator="\n", encoding="utf-8")


def disarm(cell: Any) -> Any:
    """Text beginning like a spreadsheet formula, with an apostrophe before it; all else as it is."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(DANGEROUS) else cell


def write_figure(folder: Path, name: str, figure: Figure) -> None:
    """`<name>.svg` and `<name>.png`; the same figure gives the same bytes."""
    with house_style():
        figure.savefig(folder / f"{name}.svg", format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / f"{name}.png", format="png", dpi=150, metadata={"Software": None})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable JSON; no NaN, which JSON does not have."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
