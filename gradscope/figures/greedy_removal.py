"""How much cheaper is it to delete the blocks that are missed least than to delete blocks at random?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .lesions import from_zero, label_of, metric_of, reference_lines
from .style import Mark, house_style, marks


def greedy_removal(
    frame: pd.DataFrame,
    *,
    quantity: str | None = None,
    x_label: str = "deleted blocks (count)",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Error as blocks are deleted greedily, beside the median and 95 % band of random sets of as many.

    Args:
        frame: Columns `kind` ("greedy", "set"), `deleted`, `value`, and `family`, `statistics`, `quantity`,
            `seed`, `low`, `high` where there are any: a whole frame of `lesion_study`. Random sets may be absent.
        quantity: Which rows are drawn. None: `error` where there is one, or else the only metric.
        x_label: With unit.
        y_label: With unit; None: the quantity with that of its column `unit`.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Random sets: Veit et al. (2016), arXiv:1605.06431, figure 5a.
    """
    who = "greedy_removal"
    require(frame, ["kind", "deleted", "value"], who)
    frame = frame.assign(
        statistics=frame.get("statistics", "as run"), family=frame.get("family", frame.get("network", ""))
    )
    quantity = quantity or metric_of(frame, who)
    points = only(frame, quantity, who)
    removed = points[points["kind"] == "greedy"]
    if removed.empty:
        raise ValueError(
            f"{who} draws rows of kind 'greedy', but the frame has {sorted(points['kind'].astype(str).unique())}. "
            "Measure them with lesion_study(..., greedy=k)."
        )
    kept, left_out = drawable(removed, ["deleted", "value"])
    summary = over_seeds(kept, ["family", "statistics", "deleted"], who)
    drawn, _ = drawable(points[points["kind"] == "set"], ["deleted", "value"])
    names = levels(removed, "statistics")
    looks = marks(names)
    families = levels(removed, "family")
    with house_style():
        figure, axes = canvas(ax, len(families), columns=1, height=3.0, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            for statistics in names:
                look = looks[statistics]
                rows = summary[(summary["family"] == family) & (summary["statistics"] == statistics)]
                rows = rows.sort_values("deleted")
                axis.errorbar(
                    rows["deleted"],
                    rows["value"],
                    yerr=whiskers(rows),
                    capsize=2,
                    label=f"{statistics}: greedy",
                    zorder=3,
                    **look.line(),
                )
                _random(axis, drawn[(drawn["family"] == family) & (drawn["statistics"] == statistics)], look)
            reference_lines(axis, frame[frame["family"] == family], quantity)
            axis.set_title(str(family))
            axis.set_xlabel(x_label)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        from_zero(axes[0], pd.concat([kept["value"], drawn["value"]]))
        note = interval_note(summary)
        if note:
            axes[-1].set_xlabel(f"{x_label}\ngreedy: {note}")
        note_left_out(axes[-1], left_out, len(removed))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label or label_of(points, quantity), ax)
    return figure


def _random(axis: Axes, rows: pd.DataFrame, look: Mark) -> None:
    """The median of random sets with the band of 95 % of them, hollow so as not to be taken for the greedy ones."""
    if rows.empty:
        return
    several = rows.groupby("deleted")["value"]
    median = several.median()
    axis.fill_between(
        median.index,
        several.quantile(0.025),
        several.quantile(0.975),
        color=look.colour,
        alpha=0.15,
        linewidth=0,
    )
    axis.plot(
        median.index,
        median,
        label=f"{rows['statistics'].iloc[0]}: random sets, median and 95 %",
        **look.line(markerfacecolor="white", linewidth=0.9),
    )
