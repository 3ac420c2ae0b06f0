"""Does the ensemble of paths become deeper or shallower as a network learns?"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require
from .scales import logarithmic, plain_number
from .style import Mark, house_style, marks

LENGTHS = {
    "mean_path_length": "measured",
    "implied_path_length": "implied by the gains",
    "implied_path_length_incoherent": "implied, if paths are orthogonal",
}
DASHES: dict[str, Any] = {
    "mean_path_length": "-",
    "implied_path_length": (0, (5, 1.5)),
    "implied_path_length_incoherent": (0, (1.2, 1.2)),
}
COHERENCE = "total_coherence"


def ensemble_depth(
    frame: pd.DataFrame,
    *,
    time: str | None = None,
    color: str | None = None,
    x_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Mean path length of the gradient along training, measured and predicted, and below it the total coherence.

    Args:
        frame: Columns `quantity` (the keys of `LENGTHS`, "total_coherence"), `step` or `epoch`,
            `value`, and `seed`, `low`, `high` where there are any. The panel of the coherence, |g|^2 over the sum of
            squared path norms, is left out where there is none.
        time: Column along x; None: `step`, or else `epoch`.
        color: Column whose levels get lines of their own (such as a family); None: none.
        x_label: With unit; None: the column's name.
        ax: Axes to draw into, divided into panels; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, or has no row of a mean path length.

    Source:
        Littwin & Wolf (2016), arXiv:1611.02525, predict an ensemble that becomes deeper.
    """
    who = "ensemble_depth"
    time = time or ("epoch" if "epoch" in frame.columns and "step" not in frame.columns else "step")
    require(frame, ["quantity", time, "value", *([color] if color else [])], who)
    frame = frame[frame["quantity"].isin([*LENGTHS, COHERENCE])]
    if not frame["quantity"].isin(list(LENGTHS)).any():
        raise ValueError(f"{who} draws the quantities {list(LENGTHS)}, but the frame has none of them.")
    groups = frame.assign(group=frame[color] if color else "")
    kept, left_out = drawable(groups, [time, "value"])
    summary = over_seeds(kept, ["group", "quantity", time], who).sort_values(time)
    coherent = bool((frame["quantity"] == COHERENCE).any())
    looks = marks(levels(groups, "group"))
    with house_style():
        figure, axes = canvas(ax, 1 + coherent, columns=1, height=2.6, share_x=True)
        for group, (quantity, name) in itertools.product(looks, LENGTHS.items()):
            rows = summary[(summary["group"] == group) & (summary["quantity"] == quantity)]
            if not rows.empty:
                label = ", ".join(part for part in (str(group), name) if part)
                _line(axes[0], rows, time, looks[group], quantity, label)
        axes[0].set_ylabel("mean path length (branches)")
        hidden = 0
        if coherent:
            rows = summary[summary["quantity"] == COHERENCE]
            shown, hidden = drawable(rows, ["value"], positive=True)
            for group, some in shown.groupby("group", sort=False):
                _line(axes[1], some, time, looks[group], COHERENCE, None)
            axes[1].axhline(
                1, color="black", linewidth=0.8, linestyle=(0, (1.2, 1.2)), label="paths orthogonal"
            )
            logarithmic(axes[1])
            axes[1].set_ylabel("total coherence (1)")
        note = interval_note(summary)
        axes[-1].set_xlabel(f"{x_label or f'{time} of training (number)'}\n{note}".rstrip())
        axes[-1].xaxis.set_major_formatter(plain_number)
        note_left_out(axes[-1], left_out, len(frame))
        note_left_out(axes[-1], hidden, len(summary), "not positive, so not on a log axis")
        legend_below(figure, axes, ax)
    return figure


def _line(axis: Axes, rows: pd.DataFrame, time: str, look: Mark, quantity: str, label: str | None) -> None:
    """What is implied rather than measured is dashed and hollow."""
    axis.plot(
        rows[time],
        rows["value"],
        color=look.colour,
        marker=look.marker,
        linestyle=DASHES.get(quantity, "-"),
        markerfacecolor="white" if quantity.startswith("implied") else look.colour,
        markersize=4,
        label=label,
    )
    low, high, place = (rows[name].to_numpy(dtype=float) for name in ("low", "high", time))
    if quantity == COHERENCE:
        # A band that reaches below zero ends at a tenth of the value, for the axis is logarithmic.
        low = np.where(low > 0, low, np.minimum(rows["value"].to_numpy(dtype=float) / 10, high))
    axis.fill_between(place, low, high, color=look.colour, alpha=0.2, linewidth=0)
