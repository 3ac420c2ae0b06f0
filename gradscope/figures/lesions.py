"""Which blocks does a network miss when they are deleted, one at a time?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .style import BLACK, GREY, house_style, marks

LEVEL = 0.05


def lesions(
    frame: pd.DataFrame,
    *,
    quantity: str | None = None,
    solid: Sequence[str] = ("identity", "layer"),
    x_label: str = "position of the deleted block (index)",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Error after deleting each junction, a panel per family, beside the intact error and chance.

    A ring marks a junction whose difference from the intact network survives Holm's adjustment at 5 %, for
    every seed where there are several.

    Args:
        frame: Columns `family` (or `network`), `index`, `kind`, `value`, `quantity`, and
            `statistics` ("stale", "recalibrated"), `seed`, `low`, `high` where there are any.
            Rows of quantity "intact_error" and "chance_error" become horizontal lines, and the column
            `p_holm` of "error_difference" makes the rings. Of a whole study's frame, rows with `draw` -1 are drawn.
        quantity: Which rows are the points: `error`, or another metric with its own `intact_` and `_difference`.
            None: `error` where there is one, or else the only metric.
        solid: Kinds drawn filled; all others (blocks that change the shape) are hollow.
        x_label: With unit.
        y_label: With unit; None: the quantity with that of its column `unit`.
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
    if "draw" in frame.columns:
        frame = frame[frame["draw"].isna() | (frame["draw"] == -1)]
    quantity = quantity or metric_of(frame, who)
    points = only(frame, quantity, who)
    ringed = surviving(frame, quantity)
    kept, left_out = drawable(points, ["index", "value"])
    summary = over_seeds(kept, ["family", "statistics", "index", "kind"], who)
    looks = marks(levels(points, "statistics"))
    families = levels(points, "family")
    with house_style():
        figure, axes = canvas(ax, len(families), columns=1, height=2.6, share_y=True)
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
                ring = rows[[(family, statistics, place) in ringed for place in rows["index"]]]
                if not ring.empty:
                    axis.plot(
                        ring["index"],
                        ring["value"],
                        linestyle="",
                        marker="o",
                        markersize=10,
                        color=BLACK,
                        markerfacecolor="none",
                        label="differs from intact (Holm, 5 %)",
                        zorder=4,
                    )
            reference_lines(axis, frame[frame["family"] == family], quantity)
            axis.set_title(str(family))
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        # The panels share their y axis, so it is set once, after everything has been drawn.
        axes[0].autoscale(axis="y")
        from_zero(axes[0], summary["value"])
        axes[-1].set_xlabel(x_label)
        note = interval_note(summary)
        if note:
            axes[-1].set_xlabel(f"{x_label}\n{note}")
        note_left_out(axes[-1], left_out, len(points))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label or label_of(points, quantity), ax)
    return figure


def surviving(frame: pd.DataFrame, quantity: str) -> set[tuple[object, object, object]]:
    """(family, statistics, index) of junctions whose difference survives Holm's adjustment in every seed."""
    if "p_holm" not in frame.columns or "quantity" not in frame.columns:
        return set()
    rows = frame[frame["quantity"].isin([quantity, f"{quantity}_difference"]) & frame["p_holm"].notna()]
    groups = rows.groupby(["family", "statistics", "index"])["p_holm"].max()
    return set(groups.index[groups <= LEVEL])


def metric_of(frame: pd.DataFrame, who: str) -> str:
    """The metric that a frame holds: `error` where it is among them.

    Raises:
        ValueError: Several others.
    """
    found = set() if "quantity" not in frame.columns else set(frame["quantity"].dropna().astype(str))
    metrics = sorted(
        name
        for name in found - {"kendall_tau"}
        if not name.startswith(("intact_", "chance_")) and not name.endswith("_difference")
    )
    if "error" in metrics or not metrics:
        return "error"
    if len(metrics) > 1:
        raise ValueError(
            f"{who} draws one metric, but the frame has {metrics}. Name one of these as quantity=."
        )
    return metrics[0]


def label_of(points: pd.DataFrame, quantity: str) -> str:
    """The quantity with its unit, for an axis."""
    units = list(points["unit"].dropna().unique()) if "unit" in points.columns else []
    unit = "share of examples" if quantity == "error" or not units else units[0]
    return f"{quantity.replace('_', ' ')} ({unit})"


def from_zero(axis: Axes, values: pd.Series) -> None:
    """Let the y axis begin at 0 where nothing lies below it."""
    if not (values < 0).any():
        axis.set_ylim(bottom=0)


def reference_lines(axis: Axes, frame: pd.DataFrame, quantity: str = "error") -> None:
    """Horizontal lines; the mean over seeds, one for each way of treating the statistics that differs."""
    if "quantity" not in frame.columns:
        return
    for name, label, dash in (
        (f"intact_{quantity}", "intact network", "-"),
        (f"chance_{quantity}", "chance level", ":"),
    ):
        rows = frame[(frame["quantity"] == name) & frame["value"].notna()]
        for value in sorted(set(rows.groupby("statistics", dropna=False)["value"].mean().round(6))):
            axis.axhline(value, color=GREY, linestyle=dash, linewidth=1.2, label=label, zorder=1)
