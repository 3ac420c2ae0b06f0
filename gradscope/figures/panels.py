"""Small multiples: one panel for a family and a depth, one seed of each."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill
from typing import Any

import pandas as pd

# About 0.08 inch a letter at 10.5 points: as many as fit over a panel of half a page, or over a square in it.
WIDE, SQUARE = 30, 26


def named(frame: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The rows of a quantity (all, where there are no others), under `family` and `layers` as panels want them.

    The frame of a study of one network has no family, and may have its `depth` in the place of `layers`, or neither
    but several ways to `read` one gradient.
    """
    if "quantity" in frame.columns and quantity in set(frame["quantity"]):
        frame = frame[frame["quantity"] == quantity]
    if "family" not in frame.columns:
        frame = frame.assign(family="one network")
    if "layers" not in frame.columns:
        instead = next((column for column in ("depth", "read") if column in frame.columns), None)
        frame = frame.assign(layers=frame[instead] if instead else "measured")
    return frame


def layers_name(layers: Any) -> str:
    """`1 layer`, `24 layers`, or a name that stands in the place of a number."""
    return str(layers) if isinstance(layers, str) else f"{layers:g} layer{'s' * (layers != 1)}"


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
