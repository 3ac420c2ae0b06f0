"""Does the gradient vanish or explode on its way back through the layers?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .style import BLACK, house_style, marks

LINE = "fitted_gradient_log10_norm"
# What is lost, how its mark looks, and where it stands if it has no value: at the foot or at the top of the axes.
LOST = {"underflow": ("v", 0.02), "overflow": ("^", 0.98)}


def gradient_flow(
    frame: pd.DataFrame,
    *,
    quantity: str = "output_gradient_log10_norm",
    hue: str = "family",
    x_label: str = "depth (layers from the input)",
    y_label: str = "gradient norm\nlog10 (loss per output)",
    ax: Axes | None = None,
) -> Figure:
    """Logarithm of the gradient's norm against depth, with the fitted line and what the precision lost.

    Open triangles mark gradients that underflowed or overflowed, at the edge where no number is left of them.

    Args:
        frame: As `gradient_flow` returns it, or columns `depth`, `value`, and `quantity`, `call`, `low`, `high`,
            `status`, `hue`, `seed` where there are any. Rows of `fitted_gradient_log10_norm` are the line and its band.
        quantity: Which rows are the points.
        hue: Condition told apart by colour, marker and dash; left out for one network.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Source:
        Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks.
    """
    who = "gradient_flow"
    require(frame, ["depth", "value"], who)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "measured"})
    if "call" not in frame.columns:
        frame = frame.assign(call=0)
    if "status" not in frame.columns:
        frame = frame.assign(status="ok")
    points = only(frame, quantity, who)
    lost = points[points["status"].isin(list(LOST))]
    kept, _ = drawable(points, ["depth", "value"])
    missing = points[~points.index.isin(kept.index) & ~points.index.isin(lost.index)]
    summary = over_seeds(kept, [hue, "depth", "call"], who)
    looks = marks(levels(frame, hue))
    with house_style():
        figure, (axis,) = canvas(ax, height=3.4)
        for name, rows in summary.groupby(hue, sort=False):
            rows = rows.sort_values(["depth", "call"])
            axis.errorbar(
                rows["depth"],
                rows["value"],
                yerr=whiskers(rows),
                capsize=2,
                label=str(name),
                **looks[name].line(zorder=3),
            )
        if "quantity" in frame.columns and (frame["quantity"] == LINE).any():
            _fitted(axis, only(frame, LINE, who), hue, looks, who)
        _lost_marks(axis, lost)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = interval_note(summary)
        axis.set_xlabel(f"{x_label}\n{note}" if note else x_label)
        axis.set_ylabel(y_label)
        note_left_out(axis, len(missing), len(points))
        legend_below(figure, [axis], ax)
    return figure


def _fitted(axis: Axes, rows: pd.DataFrame, hue: str, looks: dict, who: str) -> None:
    line = over_seeds(drawable(rows, ["depth", "value"])[0], [hue, "depth", "call"], who)
    for name, some in line.groupby(hue, sort=False):
        some = some.sort_values(["depth", "call"])
        depth = some["depth"].to_numpy(dtype=float)
        low, high = some["low"].to_numpy(dtype=float), some["high"].to_numpy(dtype=float)
        axis.plot(depth, some["value"], color=BLACK, linestyle=(0, (3, 2)), linewidth=1.2, zorder=5)
        axis.fill_between(depth, low, high, color=looks[name].colour, alpha=0.15, linewidth=0, zorder=1)
    if len(line):
        axis.plot([], [], color=BLACK, linestyle=(0, (3, 2)), linewidth=1.2, label="fitted line, 95 % band")


def _lost_marks(axis: Axes, lost: pd.DataFrame) -> None:
    for status, (marker, edge) in LOST.items():
        rows = lost[lost["status"] == status]
        depth, value = rows["depth"].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)
        known = np.isfinite(value)
        look: dict[str, Any] = {
            "marker": marker,
            "linestyle": "",
            "markersize": 8,
            "markerfacecolor": "none",
            "markeredgecolor": "black",
        }
        # An empty line off the axes would count as ink there, and the layout would leave room for it.
        if known.any():
            axis.plot(depth[known], value[known], zorder=4, label=status, **look)
        if not known.all():
            axis.plot(
                depth[~known],
                np.full(int((~known).sum()), edge),
                transform=axis.get_xaxis_transform(),
                clip_on=False,
                label=None if known.any() else status,
                **look,
            )
