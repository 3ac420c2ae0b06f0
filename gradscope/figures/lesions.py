"""Which blocks does a network miss when they are deleted, one at a time?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .style import GREY, house_style, marks

REFERENCES = {"intact_error": ("intact network", "-"), "chance_error": ("chance level", ":")}


def lesions(
    frame: pd.DataFrame,
    *,
    quantity: str = "error",
    solid: Sequence[str] = ("identity", "layer"),
    x_label: str = "position of the deleted block (index)",
    y_label: str = "error (share of examples)",
    ax: Axes | None = None,
) -> Figure:
    """Error after deleting each junction, a panel per family, beside the intact error and chance.

    Args:
        frame: Columns `family` (or `network`), `index`, `kind`, `value`, `quantity`, and
            `statistics` ("stale", "recalibrated"), `seed`, `low`, `high` where there are any.
            Rows of quantity "intact_error" and "chance_error" become horizontal lines.
        quantity: Which rows are the points.
        solid: Kinds drawn filled; all others (blocks that change the shape) are hollow.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 3.
    """
    who = "lesions"
    if "family" not in frame.columns and "network" in frame.columns:
        frame = frame.rename(columns={"network": "family"})
    if "family" not in frame.columns:
        frame = frame.assign(family="")
    require(frame, ["family", "index", "kind", "value"], who)
    if "statistics" not in frame.columns:
        frame = frame.assign(statistics="as run")
    points = only(frame, quantity, who)
    kept, left_out = drawable(points, ["index", "value"])
    summary = over_seeds(kept, ["family", "statistics", "index", "kind"], who)
    looks = marks(levels(points, "statistics"))
    families = levels(points, "family")
    with house_style():
        figure, axes = canvas(ax, len(families), columns=1, height=2.2, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            for statistics, rows in summary[summary["family"] == family].groupby("statistics", sort=False):
                rows = rows.sort_values("index")
                look = looks[statistics]
                axis.plot(rows["index"], rows["value"], color=look.colour, linestyle=look.dash, linewidth=0.9)
                hollow = ~rows["kind"].isin(list(solid))
                for some, face, suffix in (
                    (rows[~hollow], look.colour, ""),
                    (rows[hollow], "white", ", block changes the shape"),
                ):
                    if some.empty:
                        continue
                    axis.errorbar(
                        some["index"],
                        some["value"],
                        yerr=whiskers(some),
                        fmt=look.marker,
                        color=look.colour,
                        markerfacecolor=face,
                        capsize=2,
                        label=f"{statistics}{suffix}",
                        zorder=3,
                    )
            reference_lines(axis, frame[frame["family"] == family])
            axis.set_title(str(family))
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        # The panels share their y axis, so it is set once, after everything has been drawn.
        axes[0].autoscale(axis="y")
        axes[0].set_ylim(bottom=0)
        axes[-1].set_xlabel(x_label)
        note = interval_note(summary)
        if note:
            axes[-1].set_xlabel(f"{x_label}\n{note}")
        note_left_out(axes[-1], left_out, len(points))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def reference_lines(axis: Axes, frame: pd.DataFrame) -> None:
    """Horizontal lines; the mean over seeds, one for each way of treating the statistics that differs."""
    if "quantity" not in frame.columns:
        return
    for quantity, (label, dash) in REFERENCES.items():
        rows = frame[(frame["quantity"] == quantity) & frame["value"].notna()]
        for value in sorted(set(rows.groupby("statistics", dropna=False)["value"].mean().round(6))):
            axis.axhline(value, color=GREY, linestyle=dash, linewidth=1.2, label=label, zorder=1)
