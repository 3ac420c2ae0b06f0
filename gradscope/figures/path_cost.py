"""What does the split cost, as more lengths are wanted and as networks get deeper?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .scales import logarithmic
from .style import GREY, house_style, marks

AXES = {
    "lengths": "lengths computed (number)",
    "blocks": "blocks of the network (number)",
}


def path_cost(
    frame: pd.DataFrame,
    *,
    quantity: str = "seconds",
    y_label: str = "time (s)",
    ax: Axes | None = None,
) -> Figure:
    """Seconds against the number of lengths and against depth, by contender, on logarithmic axes.

    Thin grey lines rise in proportion to x and to its square.

    Args:
        frame: Columns `sweep` (what was varied: "lengths", "blocks", or another column, a panel each), a column of
            that name with the numbers > 0, `contender`, `value`; `quantity`, `seed` or `round` (averaged over), `low`,
            `high` where there are any.
        quantity: Which rows are drawn.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several sweeps; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, the quantity, or the column that a sweep names.

    Source:
        Measured, not predicted: see the benchmarks.
    """
    who = "path_cost"
    require(frame, ["sweep", "contender", "value"], who)
    rows = only(frame, quantity, who)
    rounds = "round" in rows.columns and "seed" not in rows.columns
    if rounds:
        rows = rows.rename(columns={"round": "seed"})
    sweeps = levels(rows, "sweep")
    require(rows, sweeps, who)
    looks = marks(levels(rows, "contender"))
    left_out, hidden, notes = 0, 0, []
    with house_style():
        figure, axes = canvas(ax, len(sweeps), columns=1, height=2.9)
        for axis, sweep in zip(axes, sweeps, strict=True):
            kept, gone = drawable(rows[rows["sweep"] == sweep], [sweep, "value"])
            summary = over_seeds(kept, ["contender", sweep], who)
            shown, low = drawable(summary, ["value"], positive=True)
            left_out, hidden = left_out + gone, hidden + low
            notes.append(interval_note(shown))
            for contender, some in shown.sort_values(sweep).groupby("contender", sort=False):
                axis.errorbar(
                    some[sweep],
                    some["value"],
                    yerr=whiskers(some),
                    capsize=2,
                    elinewidth=0.9,
                    label=str(contender),
                    **looks[contender].line(markersize=5),
                )
            _guides(axis, shown, sweep)
            logarithmic(axis)
            logarithmic(axis, "x")
            axis.set_xlabel(AXES.get(sweep, f"{sweep.replace('_', ' ')} (number)"))
        note = max(notes, key=len)
        note = note.replace("seeds", "rounds") if rounds else note
        axes[-1].set_xlabel(f"{axes[-1].get_xlabel()}\n{note}".rstrip())
        note_left_out(axes[-1], left_out, len(rows))
        note_left_out(axes[-1], hidden, len(rows), "not positive, so not on a log axis")
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _guides(axis: Axes, rows: pd.DataFrame, sweep: str) -> None:
    """Slopes 1 and 2 from below the cheapest point, within the range of the data."""
    if rows[sweep].nunique() < 2:
        return
    place = np.geomspace(float(rows[sweep].min()), float(rows[sweep].max()), 2)
    start = 0.5 * float(rows["value"].min())
    top = float(rows["value"].max())
    for power, dash, name in (
        (1, (0, (3, 2)), "theory: proportional to x"),
        (2, (0, (1.2, 1.2)), "theory: to its square"),
    ):
        # Clipped by hand: a guide must not stretch the axis.
        end = min(place[1], place[0] * (top / start) ** (1 / power))
        line = np.array([place[0], end])
        axis.plot(
            line,
            start * (line / place[0]) ** power,
            color=GREY,
            linestyle=dash,
            linewidth=1.0,
            label=name,
            zorder=1,
        )
