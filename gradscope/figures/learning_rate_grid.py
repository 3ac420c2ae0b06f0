"""Which learning rates does a network bear, and how far does each bring it?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .canvas import canvas, legend_below
from .frames import levels, note_left_out, only, require
from .scales import logarithmic
from .style import Mark, house_style, marks

QUANTITIES = {"final_loss": "loss at the end", "excess_loss": "excess loss at the end"}
DIVERGED = "hollow, at the top: diverged for some seeds; filled: for all"
TOP = 0.97


def learning_rate_grid(
    frame: pd.DataFrame,
    *,
    quantity: str | None = None,
    hue: str = "network",
    x_label: str = "learning rate (squared parameters per loss)",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Loss at the end of training against the learning rate, a curve for each network.

    A point is the median over seeds, a seed that diverged counting as infinitely bad; its bar spans the seeds that did
    not diverge. Marks along the top edge, a lane for each network, are rates at which training diverged. A ring marks
    each network's best.

    Args:
        frame: Columns `hue`, `learning_rate`, `value`, and `quantity`, `seed`, `status` where there are any. A run
            diverged where its status is "diverged", its reason begins with that word, or its value is infinite.
        quantity: Which rows are drawn; None for the first of "final_loss" and "excess_loss" that the frame has.
        hue: Condition told apart by colour, marker and dash.
        x_label: With unit.
        y_label: With unit; None for the quantity and the unit that its rows name.
        ax: Axes to draw into; None for a new figure.

    Raises:
        ValueError: The frame lacks a column or the quantity, or mixes conditions.

    Source:
        Li et al. (2016), Demystifying ResNet, arXiv:1611.01186; divergence above 2 / lambda_max: LeCun et al. (1998).
    """
    who = "learning_rate_grid"
    require(frame, [hue, "learning_rate", "value"], who)
    if quantity is None:
        there = set(frame.get("quantity", pd.Series(dtype=object)))
        quantity = next((name for name in QUANTITIES if name in there), "final_loss")
    rows = only(frame, quantity, who)
    run = [hue, "learning_rate", *(["seed"] if "seed" in rows.columns else [])]
    if rows.duplicated(run).any():
        raise ValueError(
            f"{who} draws one run for each {run}, but {int(rows.duplicated(run, keep=False).sum())} rows share theirs. "
            "Filter the frame to one condition first."
        )
    value = rows["value"].to_numpy(dtype=float)
    diverged = np.isinf(value)
    for column in {"status", "reason"} & set(rows.columns):
        diverged |= rows[column].astype(str).str.startswith("diverged").to_numpy()
    kept = rows.assign(diverged=diverged, value=np.where(diverged, np.inf, value))
    kept = kept[kept["value"].notna() & np.isfinite(kept["learning_rate"])]
    shown = kept[kept["value"] > 0]
    looks = marks(levels(rows, hue))
    with house_style():
        figure, (axis,) = canvas(ax)
        for lane, (name, look) in enumerate(looks.items()):
            some = shown[shown[hue] == name]
            _curve(axis, some, look, str(name))
            _diverged(axis, some, look, TOP - 0.05 * lane)
        logarithmic(axis)
        if len(shown):
            # Room above the curves for the lanes of marks.
            low, high = axis.get_ylim()
            lanes = 0.06 * (len(looks) + 1)
            axis.set_ylim(low, high * (high / low) ** (lanes / (1 - lanes)))
            rates = shown["learning_rate"]
            axis.set_xlim(float(rates.min()) / 1.3, float(rates.max()) * 1.3)
        logarithmic(axis)
        logarithmic(axis, "x")
        seeds = int(kept.groupby([hue, "learning_rate"]).size().max()) if len(kept) else 0
        note = f"median and range of {seeds} seeds; ring: best" if seeds > 1 else "ring: best"
        axis.set_xlabel(f"{x_label}\n{note}")
        axis.set_ylabel(y_label or _named(rows, quantity))
        note_left_out(axis, len(rows) - len(kept), len(rows))
        note_left_out(axis, len(kept) - len(shown), len(rows), "not positive, so not on a log axis")
        legend_below(figure, [axis], ax)
    return figure


def _curve(axis: Axes, rows: pd.DataFrame, look: Mark, label: str) -> None:
    """Medians, ranges of the runs that did not diverge, and a ring around the best rate."""
    points = []
    for rate in levels(rows, "learning_rate"):
        values = rows.loc[rows["learning_rate"] == rate, "value"].to_numpy(dtype=float)
        points.append((float(rate), _middle(values), values[np.isfinite(values)]))
    finite = [point for point in points if np.isfinite(point[1])]
    rates, middle = [point[0] for point in finite], np.array([point[1] for point in finite])
    reach = [[m - v.min() for _, m, v in finite], [v.max() - m for _, m, v in finite]]
    axis.errorbar(
        rates,
        middle,
        yerr=np.clip(reach, 0, None) if finite else None,
        capsize=2.5,
        label=label,
        **look.line(),
    )
    if finite:
        best = int(middle.argmin())
        axis.plot(rates[best], middle[best], "o", markersize=11, markerfacecolor="none", color=look.colour)


def _named(rows: pd.DataFrame, quantity: str) -> str:
    unit = str(rows["unit"].iloc[0]) if "unit" in rows.columns else "loss"
    name = QUANTITIES.get(quantity, quantity.replace("_", " "))
    return f"{name} ({'dimensionless' if unit == '1' else unit})"


def _middle(values: NDArray[np.float64]) -> float:
    """The median, or infinity where a run that diverged takes part in it."""
    ordered = np.sort(values)
    upper = ordered[len(ordered) // 2]
    return float(np.median(ordered)) if np.isfinite(upper) else float("inf")


def _diverged(axis: Axes, rows: pd.DataFrame, look: Mark, height: float) -> None:
    """The network's mark at the top: filled where every seed diverged."""
    share = rows.groupby("learning_rate")["diverged"].mean()
    share = share[share > 0]
    for rate, part in zip(share.index.to_numpy(dtype=float), share, strict=True):
        axis.plot(
            rate,
            height,
            look.marker,
            transform=axis.get_xaxis_transform(),
            color=look.colour,
            markersize=7,
            markerfacecolor=look.colour if part == 1 else "white",
            label=DIVERGED,
        )
