"""How well do the gradients of different examples agree, layer by layer?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require, whiskers
from .scales import logarithmic
from .style import GREY, house_style, marks

MAIN = (
    "correlation_R",
    "median_cosine",
    "share_negative_cosines",
    "relative_effective_rank",
    "gradient_diversity",
    "simple_noise_scale",
)
WHOLE = "all parameters"
# An arrow from the point, one unit tall.
UPWARDS = Path([(0, 0), (0, 1), (-0.2, 0.75), (0, 1), (0.2, 0.75)], [1, 2, 1, 2, 2])
# Between two levels at the same depth, in layers.
APART = 0.12
# From this ratio of the largest to the smallest value a quantity in examples is drawn on a log axis.
DECADES = 30


def agreement(
    frame: pd.DataFrame,
    *,
    quantities: Sequence[str] | None = None,
    hue: str = "gradient",
    x_label: str = "depth (order of running)",
    ax: Axes | None = None,
) -> Figure:
    """A panel for each quantity against depth, one line per level of `hue`, with intervals and lines at zero and one.

    The whole gradient (`site` "all parameters") is a grey line across. An interval without upper end points out of the
    panel with an arrow.

    Args:
        frame: As `gradient_agreement` returns it: columns `quantity`, `depth`, `value`, and `hue`, `unit`, `site`,
            `seed`, `low`, `high` where there are any. Several seeds are drawn as their mean with a Student-t 95 %
            interval.
        quantities: Which, in this order; None for those of the six main ones that the frame has, or else all it has.
        hue: Condition told apart by colour, marker and dash.
        x_label: With unit.
        ax: Axes to draw into, divided; None for a new figure.

    Raises:
        ValueError: A missing column, or a quantity that the frame has not.

    Source:
        The quantities and their sources are those of `gradient_agreement`.
    """
    who = "agreement"
    require(frame, ["quantity", "depth", "value"], who)
    frame = frame.assign(
        **{hue: frame.get(hue, "as measured"), "unit": frame.get("unit", "1"), "site": frame.get("site", "")}
    )
    shown = _chosen(frame, quantities, who)
    frame = frame[frame["quantity"].isin(shown)]
    whole = frame["site"] == WHOLE
    kept, left_out = drawable(frame[~whole], ["depth", "value"])
    summary = over_seeds(kept, ["quantity", hue, "depth"], who)
    across = over_seeds(drawable(frame[whole], ["value"])[0], ["quantity", hue], who)
    looks = marks(levels(frame, hue))
    with house_style():
        figure, axes = canvas(ax, len(shown), height=2.3)
        for axis, quantity in zip(axes, shown, strict=True):
            rows = summary[summary["quantity"] == quantity]
            unit = str(frame.loc[frame["quantity"] == quantity, "unit"].iloc[0])
            for place in (0.0, 1.0) if unit == "1" else ():
                axis.axhline(place, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            for turn, (level, look) in enumerate(looks.items()):
                part = rows[rows[hue] == level].sort_values("depth")
                # Beside each other, for some levels have the same values (a linear layer's output and backward).
                part = part.assign(depth=part["depth"] + APART * (turn - (len(looks) - 1) / 2))
                if len(part):
                    _line(axis, part, look.line(zorder=3), str(level))
            for value in across.loc[across["quantity"] == quantity, "value"].to_numpy(dtype=float):
                axis.axhline(value, color=GREY, linewidth=1.4, linestyle=(0, (6, 2)), label=WHOLE, zorder=2)
            _finish(axis, rows["value"].to_numpy(dtype=float), quantity, unit)
            axis.set_xlabel(x_label)
        note = interval_note(summary) if len(summary) else ""
        axes[-1].set_xlabel(f"{x_label}\n{note}" if note else x_label)
        note_left_out(axes[-1], left_out, int((~whole).sum()))
        legend_below(figure, axes, ax)
    return figure


def _chosen(frame: pd.DataFrame, quantities: Sequence[str] | None, who: str) -> list[str]:
    there = list(frame["quantity"].dropna().unique())
    if quantities is None:
        return [name for name in MAIN if name in there] or there
    unknown = [name for name in quantities if name not in there]
    if unknown or not quantities:
        raise ValueError(f"{who} draws {list(quantities)}, but the frame has {there}. Name some of these.")
    return list(quantities)


def _line(axis: Axes, rows: pd.DataFrame, look: dict, label: str) -> None:
    open_above = np.isinf(rows["high"].to_numpy(dtype=float))
    finite = rows.assign(high=rows["high"].where(~open_above, rows["value"]))
    axis.errorbar(rows["depth"], rows["value"], yerr=whiskers(finite), label=label, capsize=2.0, **look)
    if open_above.any():
        without_end = rows[open_above]
        axis.plot(
            without_end["depth"],
            without_end["value"],
            linestyle="none",
            marker=UPWARDS,
            markersize=14,
            markerfacecolor="none",
            color=look["color"],
            label="interval without upper end",
            zorder=4,
        )


def _finish(axis: Axes, values: NDArray[np.float64], quantity: str, unit: str) -> None:
    name = quantity.replace("correlation_R", "correlation R").replace("_05", " 5 %").replace("_", " ")
    axis.set_ylabel(f"{name}\n({'dimensionless' if unit == '1' else unit})")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if unit != "1" and len(values) and values.min() > 0 and values.max() > DECADES * values.min():
        logarithmic(axis)
