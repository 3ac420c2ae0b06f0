"""What of a frame is drawn? Checks, means over seeds, and an honest count of what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes


def require(frame: pd.DataFrame, columns: Sequence[str], who: str) -> None:
    """Refuse a frame that lacks a column, or has no row.

    Raises:
        ValueError: Names what is missing and what there is.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{who} draws the columns {list(columns)}, but the frame lacks {missing}; it has "
            f"{list(frame.columns)}. Rename the columns, or name others in the call."
        )
    if frame.empty:
        raise ValueError(f"{who} was given a frame without rows. Check the filter that made it.")


def only(frame: pd.DataFrame, quantity: str, who: str) -> pd.DataFrame:
    """The rows of one quantity; a frame without the column `quantity` holds one quantity already."""
    if "quantity" not in frame.columns:
        return frame
    rows = frame[frame["quantity"] == quantity]
    if rows.empty:
        raise ValueError(
            f"{who} draws the quantity {quantity!r}, but the frame has "
            f"{sorted(frame['quantity'].astype(str).unique())}. Name one of these as quantity=."
        )
    return rows


def single_quantity(frame: pd.DataFrame, who: str) -> None:
    """Refuse a frame that mixes quantities, for one axis cannot carry two."""
    if "quantity" in frame.columns and frame["quantity"].nunique() > 1:
        raise ValueError(
            f"{who} draws one quantity, but the frame mixes "
            f"{sorted(frame['quantity'].astype(str).unique())}. Filter it to one of them."
        )


def levels(frame: pd.DataFrame, column: str) -> list[Any]:
    """The levels of a condition: numbers ascending, names in order of appearance."""
    values = list(frame[column].dropna().unique())
    return sorted(values) if pd.api.types.is_numeric_dtype(frame[column]) else values


def drawable(frame: pd.DataFrame, columns: Sequence[str], positive: bool = False) -> tuple[pd.DataFrame, int]:
    """Rows whose `columns` are all finite (and, for a log axis, `value` > 0), and how many are not."""
    keep = np.isfinite(frame[list(columns)].to_numpy(dtype=float)).all(axis=1)
    if positive:
        keep &= frame["value"].to_numpy(dtype=float) > 0
    return frame.loc[keep], int((~keep).sum())


def note_left_out(axis: Axes, left_out: int, rows: int, why: str = "not finite") -> None:
    """Say below the x axis how many rows of the frame are not in the picture."""
    if left_out:
        axis.set_xlabel(f"{axis.get_xlabel()}\n{left_out} of {rows} rows not drawn: {why}".lstrip())


def over_seeds(frame: pd.DataFrame, by: Sequence[str], who: str) -> pd.DataFrame:
    """One row per group of `by`: mean and Student-t 95 % interval of `value` over seeds.

    Where a group is a single row its own `low` and `high` are kept (NaN where the frame has none).

    Returns:
        Columns `by`, then value, low, high, n, complete (False where a row was not "ok").

    Raises:
        ValueError: Rows of a group differ by more than their seed, so that a mean over them
            would mix conditions.
    """
    frame = frame.assign(
        low=frame.get("low", np.nan),
        high=frame.get("high", np.nan),
        complete=(frame["status"] == "ok") if "status" in frame.columns else True,
    )
    replicate = [*by, "seed"] if "seed" in frame.columns else list(by)
    doubled = frame.duplicated(replicate, keep=False)
    if doubled.any():
        ignored = {"value", "low", "high", "n", "status", "reason", "complete", *replicate}
        one = frame[doubled].groupby(replicate, dropna=False)
        varying = [c for c in frame.columns if c not in ignored and (one[c].nunique(dropna=False) > 1).any()]
        raise ValueError(
            f"{who} averages over seeds only, but {int(doubled.sum())} rows share {replicate} and differ in "
            f"{varying or 'nothing but their value'}. Filter the frame to one condition first."
        )
    rows = []
    for key, group in frame.groupby(list(by), sort=False, dropna=False):
        values = group["value"].to_numpy(dtype=float)
        mean = float(values.mean())
        if len(values) == 1:
            low, high = float(group["low"].iloc[0]), float(group["high"].iloc[0])
        else:
            half = _student(len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
            low, high = mean - half, mean + half
        rows.append((*key, mean, low, high, len(values), bool(group["complete"].all())))
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n", "complete"])


def interval_note(summary: pd.DataFrame) -> str:
    """What the bars of a summary are, for the legend or the label; empty when there are none."""
    most = int(summary["n"].max()) if len(summary) else 0
    if most > 1:
        least = int(summary["n"].min())
        return f"mean of {most if least == most else f'{least} to {most}'} seeds, 95 % interval"
    return "95 % interval" if summary["low"].notna().any() else ""


def whiskers(summary: pd.DataFrame) -> np.ndarray | None:
    """Distances down and up from `value`, [2, N], for `Axes.errorbar`; None when no row has any."""
    if not summary["low"].notna().any():
        return None
    value = summary["value"].to_numpy(dtype=float)
    down = value - summary["low"].to_numpy(dtype=float)
    up = summary["high"].to_numpy(dtype=float) - value
    return np.clip(np.nan_to_num(np.stack([down, up])), 0, None)


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
