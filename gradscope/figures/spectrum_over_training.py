"""How do the paths that carry the gradient change as a network learns?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require
from .heat import cells, colour_label, ticks_at
from .style import BLACK, house_style

MEAN = "mean_path_length"


def spectrum_over_training(
    frame: pd.DataFrame,
    *,
    time: str | None = None,
    quantity: str = "signed_share",
    x_label: str | None = None,
    y_label: str = "path length (branches crossed)",
    ax: Axes | None = None,
) -> Figure:
    """Share of the gradient by path length, a column of cells for each measured step, under the mean path length.

    Columns are equally wide, however far apart the steps are, and bear their step. Cells of negative share are
    hatched. The mean is that of the frame's rows `mean_path_length`, with a band over seeds; a frame without
    such rows gets the mean of its own shares, for steps where these add up to 1.

    Args:
        frame: Columns `step` or `epoch`, `path_length`, `value`; `quantity`, `state` (a panel each) and `seed` where
            there are any.
        time: Column along x; None: `step`, or else `epoch`.
        quantity: Which rows are the cells.
        x_label: With unit; None: the column's name.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several states; None for a new figure.

    Raises:
        ValueError: The frame lacks a column or the quantity.

    Source:
        The split is exact and this package's own; paths by length: Veit et al. (2016), arXiv:1605.06431.
    """
    who = "spectrum_over_training"
    time = time or ("epoch" if "epoch" in frame.columns and "step" not in frame.columns else "step")
    require(frame, [time, "path_length", "value"], who)
    frame = frame.assign(state=frame.get("state", ""))
    shares = only(frame, quantity, who)
    kept, left_out = drawable(shares, [time, "path_length", "value"])
    summary = over_seeds(kept, ["state", time, "path_length"], who)
    means = over_seeds(_means(frame, kept, time), ["state", time], who)
    states = levels(shares, "state")
    with house_style():
        figure, axes = canvas(ax, len(states), columns=1, height=3.4)
        for axis, state in zip(axes, states, strict=True):
            some = summary[summary["state"] == state]
            steps = sorted(shares.loc[shares["state"] == state, time].dropna().unique())
            place = {step: column for column, step in enumerate(steps)}
            longest = int(shares["path_length"].max()) if shares["path_length"].notna().any() else 0
            table = np.full((longest + 1, max(len(steps), 1)), np.nan)
            table[some["path_length"].to_numpy(dtype=int), [place[step] for step in some[time]]] = some[
                "value"
            ]
            cells(axis, table, label=colour_label(shares, quantity))
            line = means[(means["state"] == state) & means[time].isin(steps)].sort_values(time)
            columns = [place[step] for step in line[time]]
            # White under black: the line is seen on dark cells and on light ones.
            axis.plot(columns, line["value"], color="white", linewidth=4, solid_capstyle="round")
            axis.plot(columns, line["value"], color=BLACK, marker="o", markersize=4, label="mean path length")
            for end in ("low", "high"):
                axis.plot(columns, line[end], color=BLACK, linewidth=0.9, linestyle=(0, (3, 2)))
            ticks_at(axis, steps)
            axis.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            axis.set_title(str(state))
        note = interval_note(means) if len(means) else ""
        note = f"dashed: {note}" if note else ""
        axes[-1].set_xlabel(f"{x_label or f'{time} of training (number)'}\n{note}".rstrip())
        note_left_out(axes[-1], left_out, len(shares))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _means(frame: pd.DataFrame, shares: pd.DataFrame, time: str) -> pd.DataFrame:
    """Rows of the mean path length: those of the frame, or the means of shares that add up to 1."""
    if "quantity" in frame.columns and (frame["quantity"] == MEAN).any():
        return drawable(frame[frame["quantity"] == MEAN], [time, "value"])[0]
    by = [column for column in ("state", time, "seed") if column in shares.columns]
    weighed = shares.assign(moment=shares["value"] * shares["path_length"])
    sums = weighed.groupby(by, dropna=False, sort=False)[["value", "moment"]].sum().reset_index()
    whole = sums[(sums["value"] - 1).abs() < 1e-3]
    return whole[by].assign(value=whole["moment"] / whole["value"])
