"""How does the norm of what the residual branches add depend on the number of blocks?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .scales import logarithmic
from .style import GREY, house_style, marks


def branch_norms(
    frame: pd.DataFrame,
    *,
    quantity: str = "mean_branch_norm",
    hue: str = "network",
    x_label: str = "residual blocks (count)",
    y_label: str = "mean norm of a branch's output (units of activation)",
    ax: Axes | None = None,
) -> Figure:
    """Mean branch norm against the number of blocks, beside a line of slope -1, both axes logarithmic.

    Args:
        frame: Columns `blocks`, `value`, and `network`, `quantity`, `seed` where there are any.
        quantity: Which rows are the points.
        hue: Condition told apart by colour, marker and dash.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Source:
        Chang et al. (2018), Multi-level Residual Networks from Dynamical Systems View,
        arXiv:1710.10348, figure 3.
    """
    who = "branch_norms"
    require(frame, ["blocks", "value"], who)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "measured"})
    rows = only(frame, quantity, who)
    kept, left_out = drawable(rows, ["blocks", "value"], positive=True)
    summary = over_seeds(kept, [hue, "blocks"], who)
    looks = marks(levels(rows, hue))
    with house_style():
        figure, axes = canvas(ax, 1, columns=1, height=3.0)
        axis = axes[0]
        for name, some in summary.groupby(hue, sort=False):
            some = some.sort_values("blocks")
            axis.errorbar(
                some["blocks"],
                some["value"],
                yerr=whiskers(some),
                capsize=2.5,
                label=f"{name}{_slope(some)}",
                **looks[name].line(),
            )
        if len(summary):
            blocks = np.array(sorted(summary["blocks"].unique()), dtype=float)
            first = float(summary.sort_values("blocks")["value"].iloc[0])
            axis.plot(
                blocks,
                first * blocks[0] / blocks,
                color=GREY,
                linestyle=":",
                linewidth=1.2,
                label="predicted: slope -1",
            )
        logarithmic(axis)
        axis.set_xscale("log")
        axis.set_xticks(
            sorted(summary["blocks"].unique()), labels=[f"{n:g}" for n in sorted(summary["blocks"].unique())]
        )
        axis.minorticks_off()
        note = interval_note(summary)
        axis.set_xlabel(f"{x_label}\n{note}" if note else x_label)
        axis.set_ylabel(y_label)
        note_left_out(axis, left_out, len(rows), "not finite or not positive")
        legend_below(figure, axes, ax)
    return figure


def _slope(rows: pd.DataFrame) -> str:
    if len(rows) < 2:
        return ""
    slope = np.polyfit(np.log(rows["blocks"].to_numpy(float)), np.log(rows["value"].to_numpy(float)), 1)[0]
    return f": slope {slope:.2f}"
