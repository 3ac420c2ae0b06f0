"""How fast does the error rise as more and more blocks are deleted at once?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import RASTERISE_ABOVE, canvas, label_y, legend_below
from .frames import drawable, levels, note_left_out, only, require
from .lesions import from_zero, label_of, metric_of, reference_lines
from .style import house_style, marks


def lesion_sets(
    frame: pd.DataFrame,
    *,
    quantity: str | None = None,
    x_label: str = "deleted blocks (count)",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Error against the number of deleted blocks: every draw a point, median and 95 % quantile band.

    Args:
        frame: Columns `deleted`, `value`, and `family`, `statistics`, `quantity` where there are
            any; one row per drawn set of blocks and seed. Of a whole study's frame, rows of `kind` "set" are drawn.
        quantity: Which rows are the points. None: `error` where there is one, or else the only metric.
        x_label: With unit.
        y_label: With unit; None: the quantity with that of its column `unit`.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 5a.
    """
    import seaborn

    who = "lesion_sets"
    require(frame, ["deleted", "value"], who)
    frame = frame.assign(
        statistics=frame.get("statistics", "as run"), family=frame.get("family", frame.get("network", ""))
    )
    quantity = quantity or metric_of(frame, who)
    points = only(frame, quantity, who)
    if "kind" in points.columns and (points["kind"] == "set").any():
        points = points[points["kind"] == "set"]
    kept, left_out = drawable(points, ["deleted", "value"])
    names = levels(points, "statistics")
    looks = marks(names)
    families = levels(points, "family")
    with house_style():
        figure, axes = canvas(ax, len(families), columns=1, height=3.0, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            rows = kept[kept["family"] == family]
            for i, statistics in enumerate(names):
                some = rows[rows["statistics"] == statistics]
                # Shifted sideways, so that the two treatments' points do not cover each other.
                shift = 0.16 * (i - (len(names) - 1) / 2)
                axis.scatter(
                    some["deleted"] + shift,
                    some["value"],
                    s=9,
                    marker=looks[statistics].marker,
                    color=looks[statistics].colour,
                    alpha=0.35,
                    linewidth=0,
                    rasterized=len(rows) > RASTERISE_ABOVE,
                )
                seaborn.lineplot(
                    some,
                    x="deleted",
                    y="value",
                    estimator="median",
                    errorbar=("pi", 95),
                    ax=axis,
                    label=f"{statistics}: median, 95 % of draws",
                    legend=False,
                    err_kws={"alpha": 0.18},
                    **looks[statistics].line(markeredgewidth=0),
                )
            reference_lines(axis, frame[frame["family"] == family], quantity)
            axis.set_title(str(family))
            axis.set_xlabel(x_label)
            from_zero(axis, kept["value"])
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note_left_out(axes[-1], left_out, len(points))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label or label_of(points, quantity), ax)
    return figure
