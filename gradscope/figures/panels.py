"""Small multiples: one panel for a family and a depth, one seed of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

import pandas as pd

# About 0.08 inch a letter at 10.5 points: as many as fit over a panel of half a page, or over a square in it.
WIDE, SQUARE = 30, 26

X_LABEL, TRAVELLED = "input x (dimensionless)", "distance along the path (units of the input)"


def scalars(frame: pd.DataFrame) -> bool:
    """Whether `x` is an input itself; the frame of `input_trace` says otherwise of paths between samples."""
    return "along" not in frame.columns or set(frame["along"].dropna()) <= {"grid"}


def named(frame: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The rows of a quantity (all, where there are no others), under `family` and `layers` as panels want them.

    The frame of a study of one network has no family, and may have a `site` or its `depth` in the place of `layers`, or
    neither but several ways to `read` one gradient.
    """
    if "quantity" in frame.columns and quantity in set(frame["quantity"]):
        frame = frame[frame["quantity"] == quantity]
    if "family" not in frame.columns:
        frame = frame.assign(family="one network")
    if "layers" not in frame.columns:
        instead = stand_in(frame)
        frame = frame.assign(layers=frame[instead] if instead else "measured")
    return frame


def stand_in(frame: pd.DataFrame) -> str | None:
    """The column that stands in the place of `layers` in a study's frame."""
    return next((column for column in ("site", "depth", "read") if column in frame.columns), None)


def refuse_mixed(frame: pd.DataFrame, given: pd.DataFrame, by: Sequence[str], who: str) -> None:
    """Refuse rows that share their place and seed, so that a line through them would jump between conditions.

    Args:
        frame: The rows to draw, under the names of `named`.
        given: The frame as the caller knows it, for the names in the message.
        by: The columns that tell a place beside the family and the layers.
        who: The figure.
    """
    told = ["family", "layers", *by, *(["seed"] if "seed" in frame.columns else [])]
    doubled = frame[frame.duplicated(told, keep=False)]
    if doubled.empty:
        return
    ignored = {*told, "value", "low", "high", "n", "status", "reason"}
    groups = doubled.groupby(told, dropna=False)
    varying = [c for c in frame.columns if c not in ignored and (groups[c].nunique(dropna=False) > 1).any()]
    names = [stand_in(given) if name == "layers" and "layers" not in given.columns else name for name in told]
    known = [name for name in names if name in given.columns]
    raise ValueError(
        f"{who} draws one value for each {known}, but {len(doubled)} rows share theirs and differ in "
        f"{varying or 'nothing but their value'}. Filter the frame to one condition first."
    )


def layers_name(layers: Any) -> str:
    """`1 layer`, `24 layers`, or a name that stands in the place of a number."""
    return str(layers) if isinstance(layers, str) else f"{layers:g} layer{'' if layers == 1 else 's'}"


def by_condition(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and rows of each family and depth, in order of appearance; NaN layers are no layers (a noise)."""
    groups: list[tuple[Any, pd.DataFrame]] = list(
        frame.groupby(["family", "layers"], sort=False, dropna=False)
    )
    for (family, layers), rows in groups:
        yield str(family) if pd.isna(layers) else f"{family}, {layers_name(layers)}", rows


def one_seed(title: str, rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The rows of the first seed, and the title, which says so where there are several."""
    if "seed" not in rows.columns or rows["seed"].nunique() < 2:
        return title, rows
    first = rows["seed"].iloc[0]
    return f"{title} (seed {first})", rows[rows["seed"] == first]


def wrapped(title: str, letters: int) -> str:
    """The title in lines that fit over a panel."""
    return fill(title, letters, break_long_words=False)
