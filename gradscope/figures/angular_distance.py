"""Which run of blocks could go, because the state behind it points where the state before it pointed?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas
from .frames import drawable, levels, note_left_out, only, over_seeds, require
from .style import house_style


def angular_distance(
    frame: pd.DataFrame,
    *,
    quantity: str = "angular_distance",
    x_label: str = "first deleted block (index)",
    y_label: str = "deleted blocks (count)",
    ax: Axes | None = None,
) -> Figure:
    """Angle between the states before and behind each run of blocks, a panel per family.

    A ring marks, for each length, the run across which the state turns least: the one to delete.

    Args:
        frame: Columns `index` (first block of the run), `other_index` (its last), `value` (half turns), and
            `quantity`, `family` (or `network`), `seed` where there are any.
        quantity: Which rows are the cells.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Gromov et al. (2024), arXiv:2403.17887, figure 4.
    """
    who = "angular_distance"
    require(frame, ["index", "other_index", "value"], who)
    cells = only(frame, quantity, who)
    cells = cells.assign(family=cells.get("family", cells.get("network", "")))
    cells = cells.assign(run=cells["other_index"] - cells["index"] + 1)
    kept, left_out = drawable(cells, ["index", "other_index", "value"])
    summary = over_seeds(kept, ["family", "index", "run"], who)
    families = levels(cells, "family")
    with house_style():
        figure, axes = canvas(ax, len(families), columns=1, height=3.4)
        for axis, family in zip(axes, families, strict=True):
            rows = summary[summary["family"] == family]
            grid = _grid(rows, cells)
            first = int(cells["index"].min()) - 0.5
            image = axis.imshow(
                grid,
                cmap="cividis",
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                extent=(first, first + grid.shape[1], 0.5, grid.shape[0] + 0.5),
            )
            least = rows.loc[rows.groupby("run")["value"].idxmin()]
            axis.plot(least["index"], least["run"], "o", color="white", markeredgecolor="black", markersize=5)
            axis.grid(visible=False)
            axis.set_title(str(family))
            axis.set_xlabel(x_label)
            axis.set_ylabel(y_label)
            for part in (axis.xaxis, axis.yaxis):
                part.set_major_locator(MaxNLocator(nbins=10, integer=True))
            bar = figure.colorbar(image, ax=axis)
            bar.set_label("angular distance (half turns)")
        note = "○ run of each length across which the state turns least\nwhite: the shape changes on the way"
        axes[-1].set_xlabel(f"{x_label}\n{note}")
        note_left_out(axes[-1], left_out, len(cells))
    return figure


def _grid(rows: pd.DataFrame, cells: pd.DataFrame) -> np.ndarray:
    """Values by length of the run and first block; NaN where a run would leave its stage."""
    first, last = int(cells["index"].min()), int(cells["index"].max())
    grid = np.full((int(cells["run"].max()), last - first + 1), np.nan)
    at = rows["run"].to_numpy(dtype=int) - 1, rows["index"].to_numpy(dtype=int) - first
    grid[at] = rows["value"].to_numpy(dtype=float)
    return grid
