"""Where is it drawn? On a fresh figure, or inside axes the caller already has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .style import HouseFigure

RASTERISE_ABOVE = 2000


def canvas(
    ax: Axes | None,
    panels: int = 1,
    *,
    columns: int = 2,
    width: float = 5.4,
    height: float = 3.4,
    share_x: bool = False,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, in reading order.

    Args:
        ax: Axes to draw into, or None for a new figure. When several panels are wanted inside
            given axes, those axes are blanked and divided.
        panels: How many panels, at least one.
        columns: Panels per row, at most.
        width: Of the whole figure, inches. A page shows about 5.4 inches of figure legibly on a
            phone, which is why panels wrap rather than stretch.
        height: Of one row of panels, inches.
        share_x: All panels have the same x axis.
        share_y: All panels have the same y axis.
    """
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    if ax is None:
        figure = HouseFigure(figsize=(width, height * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
        axes = list(grid.flat)
        for spare in axes[panels:]:
            spare.remove()
        if share_x:
            # The panel above a removed one is the last of its column: it carries the labels.
            for last in axes[:panels][-columns:]:
                last.tick_params(labelbottom=True)
        return figure, axes[:panels]
    figure = ax.get_figure(root=True)  # type: ignore[assignment]
    if panels == 1:
        return figure, [ax]
    ax.set_axis_off()
    inner: list[Axes] = []
    for i in range(panels):
        row, column = divmod(i, columns)
        box = (
            column / columns + 0.06 / columns,
            1 - (row + 0.88) / rows,
            0.82 / columns,
            0.72 / rows,
        )
        first = inner[0] if inner else None
        inner.append(ax.inset_axes(box, sharex=first if share_x else None, sharey=first if share_y else None))
    return figure, inner


def label_y(figure: Figure, axes: Sequence[Axes], label: str, given: Axes | None) -> None:
    """Name the y axis: once for a new figure's panels, for a long name does not fit beside each.

    Call it after `legend_below`, which moves the panels' middle.
    """
    if given is None and len(axes) > 1:
        foot = figure.foot if isinstance(figure, HouseFigure) else 0.0
        figure.supylabel(label, fontsize=10, y=0.5 + 0.5 * foot / figure.get_figheight())
    else:
        for axis in axes:
            axis.set_ylabel(label)


def legend_below(figure: Figure, axes: Sequence[Axes], given: Axes | None) -> None:
    """One legend for all panels, under them, so that it hides no mark; the figure grows by its height.

    Entries of the same name are shown once, measurements first. On a caller's axes the legend
    stays inside, for what lies around those axes is the caller's.
    """
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    labels = sorted(entries, key=lambda label: _rank(entries[label], label))
    handles = [entries[label] for label in labels]
    if given is not None:
        axes[0].legend(handles, labels, loc="best")
        return
    # At 9 points a letter is about 0.075 inch wide, and the sample of the line 0.6 inch.
    fitting = int(figure.get_figwidth() / (0.075 * max(map(len, labels)) + 0.6))
    columns = max(1, min(fitting, len(labels)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    notes = max(axis.get_xlabel().count("\n") for axis in axes)
    more = 0.2 * math.ceil(len(labels) / columns) + 0.17 * notes
    figure.set_figheight(figure.get_figheight() + more)
    if isinstance(figure, HouseFigure):
        figure.foot += more


def _rank(handle: Any, label: str) -> tuple[bool, bool]:
    return label.startswith(("theory", "hollow")), not isinstance(handle, Container | Line2D)
