"""How does the gradient split by two kinds of branches at once?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require
from .heat import cells, colour_label, ticks_at
from .style import house_style

FEW = 64


def bigraded_spectrum(
    frame: pd.DataFrame,
    *,
    quantity: str = "signed_share",
    label: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Share of the gradient by branches of a first and of a second kind crossed, as a heat map, a panel per state.

    Cells of negative share are hatched; with at most 64 cells each bears its value.

    Args:
        frame: Two columns named `length_<kind>` (whole numbers), such as `length_attention` along x and `length_mlp`
            along y, in the frame's order; `value`; and `quantity`, `state`, `seed` where there are any.
        quantity: Which rows are drawn.
        label: Of the colour bar, with unit; None: the quantity with its own.
        x_label: With unit; None: the name of the first column.
        y_label: With unit; None: the name of the second.
        ax: Axes to draw into, divided when there are several states; None for a new figure.

    Raises:
        ValueError: The frame has not exactly two columns `length_<kind>`, lacks a column or the quantity.

    Source:
        The split is exact and this package's own; paths by length: Veit et al. (2016), arXiv:1605.06431.
    """
    who = "bigraded_spectrum"
    kinds = [column for column in frame.columns if str(column).startswith("length_")]
    if len(kinds) != 2:
        raise ValueError(
            f"{who} draws two columns named length_<kind>, but the frame has {kinds or 'none'} among "
            f"{list(frame.columns)}. Keep the two to be drawn."
        )
    require(frame, [*kinds, "value"], who)
    rows = only(frame.assign(state=frame.get("state", "")), quantity, who)
    across, up = kinds
    kept, left_out = drawable(rows, [across, up, "value"])
    summary = over_seeds(kept, ["state", across, up], who)
    states = levels(rows, "state")
    with house_style():
        figure, axes = canvas(ax, len(states), columns=1, height=3.6)
        for axis, state in zip(axes, states, strict=True):
            some = summary[summary["state"] == state]
            ends = [int(rows[column].max()) if rows[column].notna().any() else 0 for column in (up, across)]
            table = np.full((ends[0] + 1, ends[1] + 1), np.nan)
            table[some[up].to_numpy(dtype=int), some[across].to_numpy(dtype=int)] = some["value"]
            cells(
                axis,
                table,
                label=label or colour_label(rows, quantity),
                numbers=table.size <= FEW,
            )
            ticks_at(axis, range(table.shape[1]))
            ticks_at(axis, range(table.shape[0]), "y")
            axis.set_title(str(state))
        note = interval_note(summary).split(",")[0] if len(summary) and summary["n"].max() > 1 else ""
        axes[-1].set_xlabel(f"{x_label or _name(across)}\n{note}".rstrip())
        note_left_out(axes[-1], left_out, len(rows))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label or _name(up), ax)
    return figure


def _name(column: str) -> str:
    return f"{column.removeprefix('length_').replace('_', ' ')} branches crossed (number)"
