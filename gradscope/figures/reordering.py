"""Does the order of the blocks matter? The error as the order moves away from the one trained in."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import RASTERISE_ABOVE, canvas, label_y, legend_below
from .frames import drawable, levels, note_left_out, only, require
from .lesions import from_zero, label_of, metric_of, reference_lines
from .style import house_style, marks

BINS = 10
FEWEST = 3


def reordering(
    frame: pd.DataFrame,
    *,
    quantity: str | None = None,
    interventions: str | tuple[str, ...] = ("swaps", "random order"),
    x_label: str = "Kendall τ to the order trained in (1: unchanged)",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Error against Kendall's tau: every random order a point, and by bins of tau the median and a 95 % quantile band.

    Tau grows to the left, from the order as it was. A bin of fewer than three orders has no line. Rows without a tau
    (blocks repeated, averaged or skipped) are counted below the axis.

    Args:
        frame: Columns `kendall_tau`, `value`, and `intervention`, `family`, `statistics`, `quantity` where there
            are any, as `reordering_study` returns them.
        quantity: Which rows are the points. None: `error` where there is one, or else the only metric.
        interventions: Which of the rows' interventions are drawn, where the frame has that column.
        x_label: With unit.
        y_label: With unit; None: the quantity with that of its column `unit`.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 5b.
    """
    who = "reordering"
    require(frame, ["kendall_tau", "value"], who)
    frame = frame.assign(
        statistics=frame.get("statistics", "as run"), family=frame.get("family", frame.get("network", ""))
    )
    quantity = quantity or metric_of(frame, who)
    measured = only(frame, quantity, who)
    points = measured[measured["kendall_tau"].notna()]
    if "intervention" in points.columns:
        drawn = [interventions] if isinstance(interventions, str) else list(interventions)
        points = points[points["intervention"].isin(drawn)]
    kept, left_out = drawable(points, ["kendall_tau", "value"])
    names = levels(points, "statistics")
    looks = marks(names)
    families = levels(frame, "family")
    with house_style():
        figure, axes = canvas(ax, len(families), columns=1, height=3.0, share_x=True, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            rows = kept[kept["family"] == family]
            for statistics in names:
                some, look = rows[rows["statistics"] == statistics], looks[statistics]
                axis.scatter(
                    some["kendall_tau"],
                    some["value"],
                    s=14,
                    marker=look.marker,
                    color=look.colour,
                    alpha=0.35,
                    linewidth=0,
                    rasterized=len(rows) > RASTERISE_ABOVE,
                )
                trend = _trend(some)
                axis.fill_between(
                    trend["tau"], trend["low"], trend["high"], color=look.colour, alpha=0.18, linewidth=0
                )
                axis.plot(
                    trend["tau"],
                    trend["median"],
                    label=f"{statistics}: median, 95 % of orders",
                    **look.line(markersize=4),
                )
            reference_lines(axis, frame[frame["family"] == family], quantity)
            axis.set_title(str(family))
        axes[0].autoscale(axis="y")
        from_zero(axes[0], kept["value"])
        if not axes[0].xaxis_inverted():
            axes[0].invert_xaxis()
        axes[-1].set_xlabel(x_label)
        note_left_out(axes[-1], left_out, len(points))
        without = int(measured["kendall_tau"].isna().sum())
        note_left_out(axes[-1], without, len(measured), "no Kendall τ")
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label or label_of(measured, quantity), ax)
    return figure


def _trend(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and 95 % quantiles of `value` in bins of equal width in tau: columns tau, median, low, high."""
    tau, value = (rows[column].to_numpy(dtype=float) for column in ("kendall_tau", "value"))
    found = []
    if len(rows):
        edges = np.linspace(tau.min(), tau.max(), BINS + 1)
        bins = np.clip(np.searchsorted(edges, tau, side="right") - 1, 0, BINS - 1)
        for i in range(BINS):
            inside = bins == i
            if inside.sum() >= FEWEST:
                low, middle, high = np.quantile(value[inside], [0.025, 0.5, 0.975])
                found.append((tau[inside].mean(), middle, low, high))
    return pd.DataFrame(found, columns=["tau", "median", "low", "high"], dtype=float)
