"""Do the blocks of a stage estimate its last state without bias, and ever more sharply?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require, whiskers
from .style import GREY, VERMILION, house_style, marks

MEAN, SPREAD = "estimation_error_mean", "estimation_error_spread"


def estimation_error(
    frame: pd.DataFrame,
    *,
    x_label: str = "block in its stage (from 1)",
    y_label: str = "estimation error (activation)",
    ax: Axes | None = None,
) -> Figure:
    """Mean over units of a stage's estimation error and its spread over units, a panel per stage.

    Args:
        frame: Columns `quantity` (rows `estimation_error_mean` and `estimation_error_spread`), `stage`,
            `position`, `value`, and `family` (or `network`), `seed`, `low`, `high` where there are any.
            The band is the mean plus and minus the standard deviation over units, drawn for one family.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several stages; None for a new figure.

    Source:
        Greff et al. (2017), arXiv:1612.07771, figure 3.
    """
    who = "estimation_error"
    require(frame, ["quantity", "stage", "position", "value"], who)
    points = frame[frame["quantity"].isin([MEAN, SPREAD])]
    missing = sorted({MEAN, SPREAD} - set(points["quantity"]))
    if missing:
        raise ValueError(f"{who} draws the quantities {MEAN} and {SPREAD}, but the frame has no {missing}.")
    points = points.assign(family=points.get("family", points.get("network", "")))
    kept, left_out = drawable(points, ["position", "value"])
    summary = over_seeds(kept, ["quantity", "family", "stage", "position"], who)
    families, stages = levels(points, "family"), levels(points, "stage")
    looks = marks([(family, quantity) for family in families for quantity in (MEAN, SPREAD)])
    names = {MEAN: "mean over units", SPREAD: "spread over units (standard deviation)"}
    with house_style():
        figure, axes = canvas(ax, len(stages), columns=1, height=2.0, share_x=True)
        for axis, stage in zip(axes, stages, strict=True):
            here = summary[summary["stage"] == stage]
            if len(families) == 1:
                _band(axis, here)
            for (family, quantity), rows in here.groupby(["family", "quantity"], sort=False):
                look, rows = looks[family, quantity], rows.sort_values("position")
                label = ", ".join(part for part in (str(family), names[quantity]) if part)
                axis.errorbar(
                    rows["position"],
                    rows["value"],
                    yerr=whiskers(rows),
                    capsize=2,
                    label=label,
                    **look.line(linewidth=1.2),
                )
            axis.axhline(0, color=GREY, linewidth=0.8, zorder=1)
            axis.set_title(f"stage {int(stage) + 1}")
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = interval_note(summary)
        axes[-1].set_xlabel(f"{x_label}\n{note}" if note else x_label)
        note_left_out(axes[-1], left_out, len(points))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _band(axis: Axes, rows: pd.DataFrame) -> None:
    wide = rows.pivot(index="position", columns="quantity", values="value").sort_index()
    if {MEAN, SPREAD} <= set(wide.columns):
        low, high = wide[MEAN] - wide[SPREAD], wide[MEAN] + wide[SPREAD]
        axis.fill_between(
            wide.index, low, high, color=VERMILION, alpha=0.15, linewidth=0, label="mean ± spread"
        )
