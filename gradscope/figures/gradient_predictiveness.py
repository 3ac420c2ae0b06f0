"""How long does a gradient stay true along its own direction, and how smooth is the loss there?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require, whiskers
from .style import Mark, house_style, marks

PANELS = {
    "loss_along_gradient": "loss",
    "gradient_difference": "gradient difference\n(loss per parameter)",
    "gradient_difference_per_length": "difference per length\n(loss per parameter²)",
}


def gradient_predictiveness(
    frame: pd.DataFrame,
    *,
    hue: str = "family",
    time: str | None = None,
    x_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Loss, change of gradient, and change for each unit of length along steps against the gradient, a panel each.

    Without `time` they are drawn against the size of the step. With it, a band from the smallest to the largest over
    the steps is drawn against time, whose upper end in the last panel is the effective smoothness.

    Args:
        frame: As `gradient_predictiveness` returns it, of one moment or, with `time`, of several, and `hue`, `seed`
            (averaged over) where there are any.
        hue: Condition told apart by colour, marker and dash; left out for one network.
        time: Column of the moment in training; None for a single moment.
        x_label: With unit; None for the step or the column's name.
        ax: Axes to draw into, divided among the panels; None for a new figure.

    Source:
        Santurkar et al. (2018), arXiv:1805.11604, figure 4.
    """
    who = "gradient_predictiveness"
    require(frame, ["quantity", "step", "value", *([time] if time else [])], who)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "measured"})
    rows = frame[frame["quantity"].isin(list(PANELS))]
    if rows.empty:
        raise ValueError(
            f"{who} draws the quantities {list(PANELS)}, but the frame has "
            f"{sorted(frame['quantity'].astype(str).unique())}."
        )
    kept, left_out = drawable(rows, ["step", "value"])
    by = [hue, *([time] if time else []), "step"]
    looks = marks(levels(rows, hue))
    note = ""
    with house_style():
        figure, axes = canvas(ax, len(PANELS), columns=1, height=2.1, share_x=True)
        for axis, (quantity, label) in zip(axes, PANELS.items(), strict=True):
            summary = over_seeds(kept[kept["quantity"] == quantity], by, who)
            note = interval_note(summary) or note
            for name, some in summary.groupby(hue, sort=False):
                if time:
                    _band(axis, some, time, looks[name], str(name))
                else:
                    some = some.sort_values("step")
                    axis.errorbar(
                        some["step"],
                        some["value"],
                        yerr=whiskers(some),
                        capsize=2,
                        label=str(name),
                        **looks[name].line(),
                    )
            unit = " (as reduced)" if quantity == "loss_along_gradient" else ""
            axis.set_ylabel(f"{label}{unit}")
        axis = axes[-1]
        named = x_label or (f"{time} (training time)" if time else "step (as given: learning rate or share)")
        if time:
            note = "band: smallest to largest over the steps" + (
                ", of means over seeds" if note.startswith("mean") else ""
            )
        axis.set_xlabel(f"{named}\n{note}" if note else named)
        note_left_out(axis, left_out, len(rows))
        legend_below(figure, axes, ax)
    return figure


def _band(axis: Axes, rows: pd.DataFrame, time: str, look: Mark, label: str) -> None:
    ends = rows.groupby(time)["value"].agg(["min", "max"]).sort_index()
    moments = ends.index.to_numpy(dtype=float)
    axis.fill_between(moments, ends["min"], ends["max"], color=look.colour, alpha=0.25, linewidth=0)
    axis.plot(moments, ends["min"], color=look.colour, linestyle=look.dash, linewidth=0.9)
    axis.plot(moments, ends["max"], label=label, **look.line(markersize=4))
