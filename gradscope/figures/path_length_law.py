"""Does a law say how long the paths are?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, note_left_out, over_seeds, require, whiskers
from .style import house_style, marks

FORMS = {"measured": "measured", "law": "law, no free parameter"}


def path_length_law(
    frame: pd.DataFrame,
    *,
    x_label: str = "path length (residual branches crossed)",
    y_label: str = "share of squared norms (1)",
    ax: Axes | None = None,
) -> Figure:
    """Shares by path length as measured, and the law's prediction as a line over them.

    Args:
        frame: Columns `form` (`measured`, `law`), `path_length`, `value`; `seed`, `low`, `high` where there are any.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Raises:
        ValueError: A column is missing, or there are no rows of one of the forms.

    Source:
        Law at initialisation: Littwin & Wolf (2016), arXiv:1611.02525, Eq. 20; derived for He-initialised branches.
    """
    who = "path_length_law"
    require(frame, ["form", "path_length", "value"], who)
    missing = sorted(set(FORMS) - set(frame["form"]))
    if missing:
        raise ValueError(f"{who} draws the forms {', '.join(FORMS)}, but the frame has no {missing[0]!r}.")
    kept, left_out = drawable(frame, ["path_length", "value"])
    summary = over_seeds(kept, ["form", "path_length"], who)
    looks = marks(list(FORMS))
    with house_style():
        figure, axes = canvas(ax, 1, height=3.0)
        axis = axes[0]
        measured = summary[summary["form"] == "measured"].sort_values("path_length")
        style = looks["measured"].line(markersize=4.5) | {"linestyle": "none"}
        axis.errorbar(
            measured["path_length"],
            measured["value"],
            yerr=whiskers(measured),
            capsize=2,
            label=FORMS["measured"],
            **style,
        )
        law = summary[summary["form"] == "law"].sort_values("path_length")
        axis.plot(law["path_length"], law["value"], color="black", linewidth=1.2, label=FORMS["law"])
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = interval_note(summary)
        axis.set_xlabel(f"{x_label}\n{note}" if note else x_label)
        note_left_out(axis, left_out, len(frame))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure
