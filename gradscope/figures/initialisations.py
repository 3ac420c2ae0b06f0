"""Under which initialisation do the gradients of different examples agree?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, note_left_out, only, over_seeds, require, whiskers
from .style import house_style, marks

# Quantities that cannot leave this range, whatever an interval of few draws says.
BOUNDED = {"correlation_R": (-1.0, 1.0), "mean_cosine": (-1.0, 1.0)}
AS_GIVEN, DRAWN = "as given", "drawn anew"


def initialisations(
    frame: pd.DataFrame,
    *,
    quantity: str = "correlation_R",
    site: str = "input",
    x_label: str = "gradient correlation R at the input (dimensionless)",
    y_label: str = "initialisation (scheme)",
    ax: Axes | None = None,
) -> Figure:
    """One point with its 95 % interval for each scheme, the highest value on top, the network as given among them.

    Args:
        frame: As `initialisation_study` returns it: columns `scheme`, `site` and `value`, and `quantity`, `low`,
            `high`, `status`, `seed` where there are any. Schemes that were skipped are named below the axis. Intervals
            of few draws may leave the range of a correlation: the axis does not, and a note counts them.
        quantity: Which rows are drawn, at `site`.
        site: A layer's name, or the input.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591.
    """
    who = "initialisations"
    require(frame, ["scheme", "site", "value"], who)
    skipped = frame[frame["status"] == "skipped"] if "status" in frame.columns else frame.iloc[:0]
    points = only(frame.drop(skipped.index), quantity, who)
    points = points[points["site"] == site]
    if points.empty:
        raise ValueError(
            f"{who} draws {quantity} at {site!r}, but the frame has it at "
            f"{sorted(frame['site'].astype(str).unique())}. Name one of these as site=."
        )
    kept, left_out = drawable(points, ["value"])
    summary = over_seeds(kept, ["scheme"], who).sort_values("value", kind="stable").reset_index(drop=True)
    looks = marks([DRAWN, AS_GIVEN])
    with house_style():
        figure, (axis,) = canvas(ax, height=1.2 + 0.28 * max(len(summary), 3))
        for kind, rows in (
            (DRAWN, summary[summary["scheme"] != AS_GIVEN]),
            (AS_GIVEN, summary[summary["scheme"] == AS_GIVEN]),
        ):
            if len(rows):
                style = looks[kind].line(zorder=3) | {"linestyle": ""}
                at = rows.index.to_numpy(dtype=float)
                axis.errorbar(rows["value"], at, xerr=whiskers(rows), capsize=2.5, label=kind, **style)
        names = [str(name) for name in summary["scheme"]]
        axis.set_yticks(np.arange(len(names)), names)
        axis.set_ylim(-0.5, max(len(names), 1) - 0.5)
        axis.axvline(0, color="black", linewidth=0.8)
        note = interval_note(summary)
        axis.set_xlabel(f"{x_label}\n{note.replace('seeds', 'draws')}" if note else x_label)
        if len(skipped):
            axis.set_xlabel(f"{axis.get_xlabel()}\nskipped: {', '.join(dict.fromkeys(skipped['scheme']))}")
        _keep_within(axis, summary, quantity)
        axis.set_ylabel(y_label)
        note_left_out(axis, left_out, len(points))
        legend_below(figure, [axis], ax)
    return figure


def _keep_within(axis: Axes, summary: pd.DataFrame, quantity: str) -> None:
    if quantity not in BOUNDED:
        return
    least, most = BOUNDED[quantity]
    rounding = 1e-6
    leaving = int(((summary["low"] < least - rounding) | (summary["high"] > most + rounding)).sum())
    if not leaving:
        return
    low, high = axis.get_xlim()
    margin = 0.03 * (most - least)
    axis.set_xlim(max(low, least - margin), min(high, most + margin))
    verb = "interval leaves" if leaving == 1 else "intervals leave"
    axis.set_xlabel(f"{axis.get_xlabel()}\n{leaving} {verb} the range {least:g} to {most:g}: cut here")
