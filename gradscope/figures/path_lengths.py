"""Through paths of which length does the gradient flow?"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require
from .scales import logarithmic
from .style import house_style, marks

SHARES = {
    "signed_share": "signed share (sums to 1)",
    "coherent_norm_share": "norm of that length's gradient",
    "incoherent_norm_share": "norm if paths were orthogonal",
    "veit_product_share": "paths × norm of one (Veit)",
}
PALE = "#c8c8c8"
COUNTS = "path_count_share"


def path_lengths(
    frame: pd.DataFrame,
    *,
    y_scale: Literal["linear", "log"] = "linear",
    floor: float = 1e-6,
    x_label: str = "path length (residual branches crossed)",
    y_label: str = "share of the whole (dimensionless)",
    ax: Axes | None = None,
) -> Figure:
    """Shares of the gradient by path length, beside the number of paths, a panel per state.

    Args:
        frame: Columns `quantity` (the keys of `SHARES`, and "path_count_share" for the grey bars),
            `path_length`, `value`, and `state`, `seed`, `low`, `high` where there are any.
        y_scale: On "log", shares that are not positive (a signed share may be negative) are
            counted in a note.
        floor: On "log", shares below this part of the largest lie under the axis.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several states; None for a new figure.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 6; the exact curves are this package's own.
    """
    who = "path_lengths"
    require(frame, ["quantity", "path_length", "value"], who)
    frame = frame.assign(state=frame.get("state", ""))
    frame = frame[frame["quantity"].isin([*SHARES, COUNTS])]
    if frame.empty:
        raise ValueError(f"{who} draws the quantities {[*SHARES, COUNTS]}, but the frame has none of them.")
    kept, left_out = drawable(frame, ["path_length", "value"])
    summary = over_seeds(kept, ["state", "quantity", "path_length"], who)
    shown, hidden = drawable(summary, ["value"], positive=y_scale == "log")
    looks = marks(list(SHARES))
    top = float(shown["value"].max()) if len(shown) else 1.0
    lowest = floor * top if y_scale == "log" else -np.inf
    states = levels(frame, "state")
    with house_style():
        figure, axes = canvas(
            ax, len(states), columns=1, height=2.4 if len(states) > 1 else 3.2, share_x=True
        )
        for axis, state in zip(axes, states, strict=True):
            rows = shown[shown["state"] == state].sort_values("path_length")
            counts = rows[rows["quantity"] == COUNTS]
            axis.bar(counts["path_length"], counts["value"], color=PALE, width=0.85, label="number of paths")
            for quantity, label in SHARES.items():
                some = rows[rows["quantity"] == quantity]
                if some.empty:
                    continue
                axis.plot(
                    some["path_length"], some["value"], label=label, **looks[quantity].line(markersize=4)
                )
                axis.fill_between(
                    some["path_length"].to_numpy(dtype=float),
                    np.maximum(some["low"].to_numpy(dtype=float), lowest),
                    some["high"].to_numpy(dtype=float),
                    color=looks[quantity].colour,
                    alpha=0.2,
                    linewidth=0,
                )
            if y_scale == "log":
                axis.set_ylim(lowest, 3 * top)
                logarithmic(axis)
            if y_scale == "linear":
                axis.axhline(0, color="black", linewidth=0.6)
            axis.set_title(str(state))
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = interval_note(summary)
        axes[-1].set_xlabel(f"{x_label}\n{note}" if note else x_label)
        note_left_out(axes[-1], left_out, len(frame))
        note_left_out(axes[-1], hidden, len(summary), "not positive, so not on a log axis")
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure
