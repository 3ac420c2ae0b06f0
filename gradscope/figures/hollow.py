"""Which points are not to be trusted? Those whose number is not settled are hollow."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .frames import interval_note, whiskers
from .style import Mark

LABEL = "hollow: not converged or undefined for some seed"


def points(
    axis: Axes, rows: pd.DataFrame, place: str, look: Mark, label: str | None, *, connected: bool = True
) -> None:
    """A line with whiskers through `value` at the column `place`, hollow where a row is not `complete`.

    Args:
        axis: Where.
        rows: A summary of `over_seeds`.
        place: Column along x.
        look: Of the level.
        label: Of the line, for the legend.
        connected: Join the points.
    """
    rows = rows.sort_values(place)
    line = look.line() if connected else look.line(linestyle="none")
    axis.errorbar(rows[place], rows["value"], yerr=whiskers(rows), label=label, capsize=2.5, **line)
    hollow(axis, rows[~rows["complete"]], place, look)


def hollow(axis: Axes, rows: pd.DataFrame, place: str, look: Mark, label: str = LABEL) -> None:
    """Cover the marks of `rows` with hollow ones."""
    if len(rows):
        axis.plot(
            rows[place],
            rows["value"],
            look.marker,
            color=look.colour,
            markerfacecolor="white",
            label=label,
            zorder=4,
        )


def band(axis: Axes, rows: pd.DataFrame, place: NDArray[np.float64], look: Mark, logarithmic: bool) -> None:
    """Shade from `low` to `high`, where there is one; on a log axis, what reaches zero ends at a tenth of the value."""
    low, high = (rows[name].to_numpy(dtype=float) for name in ("low", "high"))
    high = np.where(np.isposinf(high), rows["value"].to_numpy(dtype=float), high)
    if logarithmic:
        low = np.where(low > 0, low, np.minimum(rows["value"].to_numpy(dtype=float) / 10, high))
    axis.fill_between(place, low, high, color=look.colour, alpha=0.2, linewidth=0)


def seeds_or_bounds(summary: pd.DataFrame) -> str:
    """What the bars of eigenvalues are: an interval over seeds, or for one seed bounds such as the residual's."""
    if len(summary) and summary["n"].max() > 1:
        return interval_note(summary)
    return "bars or bands: bounds on the error" if summary["low"].notna().any() else ""
