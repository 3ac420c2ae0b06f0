"""Which paths are left when blocks are deleted?"""

from __future__ import annotations

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .scales import logarithmic
from .style import house_style, marks


def deletion_survival(
    frame: pd.DataFrame,
    *,
    theory: pd.DataFrame | None = None,
    quantity: str = "surviving_fraction",
    y_scale: Literal["linear", "log"] = "log",
    floor: float = 1e-6,
    band: tuple[float, float] | None = None,
    x_label: str = "path length (residual branches crossed)",
    y_label: str = "paths that survive (share)",
    ax: Axes | None = None,
) -> Figure:
    """Share of paths left after deleting d blocks, by length: marks are measured, lines the theory.

    Args:
        frame: Columns `deleted`, `path_length`, `value`; `quantity`, `seed`, `low`, `high` where there are any.
        theory: The same columns without intervals; a line for each `deleted`.
        quantity: Which rows of `frame` are drawn.
        y_scale: On "log", lengths of which no path is left are counted in a note.
        floor: On "log", the lowest share on the axis.
        band: Lengths to be shaded, both ends included, such as (5, 17), the effective paths of 54 blocks.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Raises:
        ValueError: A frame lacks a column or the quantity.

    Source:
        Veit et al. (2016), arXiv:1605.06431, section 6; the law C(n - d, x) / C(n, x) is derived.
    """
    who = "deletion_survival"
    require(frame, ["deleted", "path_length", "value"], who)
    rows = only(frame, quantity, who)
    kept, left_out = drawable(rows, ["deleted", "path_length", "value"])
    summary = over_seeds(kept, ["deleted", "path_length"], who)
    shown, hidden = drawable(summary, ["value"], positive=y_scale == "log")
    numbers = sorted({*levels(rows, "deleted"), *([] if theory is None else levels(theory, "deleted"))})
    looks = marks(numbers)
    with house_style():
        figure, (axis,) = canvas(ax)
        if band is not None:
            axis.axvspan(
                band[0] - 0.5,
                band[1] + 0.5,
                color="#ececec",
                zorder=0,
                label=f"lengths {band[0]} to {band[1]}",
            )
        for deleted in numbers:
            look = looks[deleted]
            some = shown[shown["deleted"] == deleted].sort_values("path_length")
            if not some.empty:
                axis.errorbar(
                    some["path_length"],
                    some["value"],
                    yerr=whiskers(some),
                    fmt=look.marker,
                    color=look.colour,
                    markersize=5,
                    markerfacecolor="white",
                    capsize=2,
                    elinewidth=0.9,
                    label=f"{deleted:g} deleted",
                    zorder=3,
                )
            if theory is not None:
                require(theory, ["deleted", "path_length", "value"], f"{who} (theory)")
                law = theory[(theory["deleted"] == deleted) & (theory["value"] > 0)].sort_values(
                    "path_length"
                )
                axis.plot(
                    law["path_length"],
                    law["value"],
                    color=look.colour,
                    linestyle=look.dash,
                    linewidth=1.2,
                    label=f"theory, {deleted:g} deleted",
                )
        if y_scale == "log":
            axis.set_ylim(floor, 2.0)
            logarithmic(axis)
        else:
            axis.set_ylim(0, 1.05)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = interval_note(summary)
        axis.set_xlabel(f"{x_label}\n{note}".rstrip())
        axis.set_ylabel(y_label)
        note_left_out(axis, left_out, len(rows))
        note_left_out(axis, hidden, len(summary), "not positive, so not on a log axis")
        legend_below(figure, [axis], ax)
    return figure
