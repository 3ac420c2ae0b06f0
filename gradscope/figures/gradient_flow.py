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

POINTS = "output_gradient_log10_norm"
LINE = "fitted_gradient_log10_norm"
# What is lost, how its mark looks, and where it stands if it has no value: at the foot or at the top of the axes.
LOST = {"underflow": ("v", 0.02), "overflow": ("^", 0.98)}


def gradient_flow(
    frame: pd.DataFrame,
    *,
    quantity: str = POINTS,
    hue: str = "family",
    x_label: str = "depth (layers from the input)",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Logarithm of the gradient's norm against depth, with the fitted line and what the precision lost.

    The axis spans the points and the line; a band that is wider is cut, and the legend says so. Open triangles mark
    gradients that underflowed or overflowed, at the edge where no number is left of them.

    Args:
        frame: As `gradient_flow` returns it, or columns `depth`, `value`, and `quantity`, `call`, `low`, `high`,
            `status`, `hue`, `seed` where there are any. Rows of `fitted_gradient_log10_norm` are the line and its band.
        quantity: Which rows are the points. Of a quantity of parameters, those of all parameters of a layer together
            (`parameter` "all"); for single ones filter the frame.
        hue: Condition told apart by colour, marker and dash; left out for one network.
        x_label: With unit.
        y_label: With unit; None for the quantity and the unit that its rows name.
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
    points = _together(only(frame, quantity, who))
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
        if quantity == POINTS and "quantity" in frame.columns and (frame["quantity"] == LINE).any():
            _fitted(axis, only(frame, LINE, who), hue, looks, who)
        _lost_marks(axis, lost)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = interval_note(summary)
        axis.set_xlabel(f"{x_label}\n{note}" if note else x_label)
        axis.set_ylabel(y_label or _named(points, quantity))
        note_left_out(axis, len(missing), len(points))
        legend_below(figure, [axis], ax)
    return figure


def _together(points: pd.DataFrame) -> pd.DataFrame:
    """Without rows of single parameters, where there are those of a layer's together, and of layers without depth."""
    if "parameter" in points.columns and (points["parameter"] == "all").any():
        points = points[points["parameter"] == "all"]
    return points[~(points["depth"] < 0)]


def _named(points: pd.DataFrame, quantity: str) -> str:
    if quantity == POINTS:
        return "gradient norm\nlog10 (loss per output)"
    unit = str(points["unit"].iloc[0]) if "unit" in points.columns and len(points) else ""
    of = f"\n({'dimensionless' if unit == '1' else unit})" if unit else ""
    return f"{quantity.replace('_', ' ')}{of}"


def _fitted(axis: Axes, rows: pd.DataFrame, hue: str, looks: dict, who: str) -> None:
    line = over_seeds(drawable(rows, ["depth", "value"])[0], [hue, "depth", "call"], who)
    stages = [(name, some.sort_values(["depth", "call"])) for name, some in line.groupby(hue, sort=False)]
    for _, some in stages:
        axis.plot(some["depth"], some["value"], color=BLACK, linestyle=(0, (3, 2)), linewidth=1.2, zorder=5)
    bottom, top = axis.get_ylim()
    for name, some in stages:
        depth = some["depth"].to_numpy(dtype=float)
        low, high = some["low"].to_numpy(dtype=float), some["high"].to_numpy(dtype=float)
        axis.fill_between(depth, low, high, color=looks[name].colour, alpha=0.15, linewidth=0, zorder=1)
    if len(line):
        axis.set_ylim(bottom, top)
        cut = bool((line["low"] < bottom).any() or (line["high"] > top).any())
        label = f"fitted line, 95 % band{' (cut at the edges)' if cut else ''}"
        axis.plot([], [], color=BLACK, linestyle=(0, (3, 2)), linewidth=1.2, label=label)


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
