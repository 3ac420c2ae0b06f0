"""Do the gradients of different examples agree less, the deeper the network?"""

from __future__ import annotations

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import (
    drawable,
    interval_note,
    levels,
    note_left_out,
    over_seeds,
    require,
    single_quantity,
    whiskers,
)
from .scales import logarithmic, plain_number
from .style import DASHES, MARKERS, Mark, house_style, marks


def correlation_against_depth(
    frame: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    hue: str = "family",
    style: str | None = None,
    *,
    x_scale: Literal["log", "linear"] = "log",
    y_scale: Literal["log", "linear"] = "log",
    floor: float | None = None,
    x_label: str = "depth (layers)",
    y_label: str = "gradient correlation R (dimensionless)",
    ax: Axes | None = None,
) -> Figure:
    """Gradient correlation against depth, one line per level of `hue`, theory over it.

    Args:
        frame: As `gradient_correlation` returns it, of which `correlation_R` is drawn, or any frame with
            columns `depth` (> 0 on a log axis), `value`, `hue` (left out for one network), and `style`, `seed`,
            `low`, `high` where there are any. Several seeds are drawn as their mean with a Student-t 95 %
            interval; a single one with its own `low` and `high`.
        theory: Columns `hue`, `depth`, `value`, `law`: thin dashed curves named by their law.
        hue: Condition told apart by colour, marker and dash.
        style: Second condition, told apart by marker and dash; colour then belongs to `hue` alone.
        x_scale: "log" (base 2) for depths of different networks, "linear" for layers of one.
        y_scale: On "log", means that are not positive are counted in a note.
        floor: On "log", where the axis begins; what lies below is under it. None for what is drawn.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591.
    """
    who = "correlation_against_depth"
    by = [hue, *([style] if style else []), "depth"]
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "as measured"})
    require(frame, [*by, "value"], who)
    if "quantity" in frame.columns and (frame["quantity"] == "correlation_R").any():
        frame = frame[frame["quantity"] == "correlation_R"]
    single_quantity(frame, who)
    kept, left_out = drawable(frame, ["depth", "value"])
    if x_scale == "log":
        kept = kept[kept["depth"] > 0]
    summary = over_seeds(kept, by, who)
    shown, hidden = drawable(summary, ["value"], positive=y_scale == "log")
    looks = marks(levels(frame, hue))
    with house_style():
        figure, (axis,) = canvas(ax, height=3.4)
        for name, rows in shown.groupby([hue, *([style] if style else [])], sort=False):
            look = looks[name[0]]
            if style:
                turn = levels(frame, style).index(name[1])
                look = Mark(look.colour, MARKERS[turn % len(MARKERS)], DASHES[turn % len(DASHES)])
            rows = rows.sort_values("depth")
            label = ", ".join(str(part) for part in name)
            axis.errorbar(
                rows["depth"],
                rows["value"],
                yerr=whiskers(rows),
                label=label,
                capsize=2.5,
                **look.line(zorder=3),
            )
        if theory is not None:
            _curves(axis, theory, hue, looks, who)
        if x_scale == "log":
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(plain_number)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        if y_scale == "log":
            logarithmic(axis)
            if floor is not None:
                axis.set_ylim(floor, 1.5)
        note = interval_note(shown) if len(shown) else ""
        axis.set_xlabel(f"{x_label}\n{note}" if note else x_label)
        axis.set_ylabel(y_label)
        note_left_out(axis, left_out, len(frame))
        note_left_out(axis, hidden, len(summary), "not positive, so not on a log axis")
        legend_below(figure, [axis], ax)
    return figure


def _curves(axis: Axes, theory: pd.DataFrame, hue: str, looks: dict, who: str) -> None:
    require(theory, [hue, "depth", "value", "law"], f"{who} (theory)")
    for (name, law), rows in theory.groupby([hue, "law"], sort=False):
        rows = drawable(rows, ["depth", "value"])[0].sort_values("depth")
        colour = looks[name].colour if name in looks else "black"
        label = f"theory, {name}: {law}"
        axis.plot(
            rows["depth"], rows["value"], color=colour, linestyle=(0, (3, 2)), linewidth=0.9, label=label
        )
