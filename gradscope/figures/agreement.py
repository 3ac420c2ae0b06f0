"""How well do the gradients of different examples agree, layer by layer?"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, over_seeds, require, whiskers
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
# An interval may take so many times the height of the points; what is longer is cut.
ROOM = 1.0


def agreement(
    frame: pd.DataFrame,
    *,
    quantities: Sequence[str] | None = None,
    hue: str = "gradient",
    x_label: str = "depth (order of running)",
    ax: Axes | None = None,
) -> Figure:
    """A panel for each quantity against depth, one line per level of `hue`, with intervals and lines at zero and one.

    The whole gradient (`site` "all parameters") is a grey line across. All panels have one x axis; quantities with a
    unit are on a logarithmic axis where they are positive. Axes leave room for the points, and as much again on
    either side for intervals: one that leaves the panel says so in the legend, one without upper end has an arrow.
    Levels that fewer layers have than others (such as factors) say how many.

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
        figure, axes = canvas(ax, len(shown), height=2.3, share_x=True)
        named = _labels(summary, hue)
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
                    _line(axis, part, look.line(zorder=3), named[level])
            lines = across.loc[across["quantity"] == quantity, "value"].to_numpy(dtype=float)
            for value in lines:
                axis.axhline(value, color=GREY, linewidth=1.4, linestyle=(0, (6, 2)), label=WHOLE, zorder=2)
            _finish(axis, rows, lines, quantity, unit)
        for axis in axes[-2:]:
            axis.set_xlabel(x_label)
        note = interval_note(summary) if len(summary) else ""
        # A panel is half as wide as the figure, and a longer line would be cut at its edge.
        notes = wrap(note, 60 if len(axes) == 1 else 26)
        if left_out:
            notes += [f"{left_out} of {int((~whole).sum())}", "rows not drawn: not finite"]
        axes[-1].set_xlabel("\n".join([x_label, *notes]))
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


def _labels(summary: pd.DataFrame, hue: str) -> dict[Any, str]:
    """The levels' names, with the number of layers where it is not that of all."""
    depths = summary.groupby(hue)["depth"].nunique()
    layers = summary["depth"].nunique()
    return {
        level: str(level) if number == layers else f"{level} ({number} of {layers} layers)"
        for level, number in depths.items()
    }


def _finish(axis: Axes, rows: pd.DataFrame, across: NDArray[np.float64], quantity: str, unit: str) -> None:
    name = quantity.replace("correlation_R", "correlation R").replace("_05", " 5 %").replace("_", " ")
    axis.set_ylabel(f"{name}\n({'dimensionless' if unit == '1' else unit})")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    points = np.concatenate([rows["value"].to_numpy(dtype=float), across, [0.0, 1.0] if unit == "1" else []])
    if not len(points):
        return
    positive = unit != "1" and points.min() > 0
    bottom, top = _limits(
        points, rows["low"].to_numpy(dtype=float), rows["high"].to_numpy(dtype=float), positive
    )
    if positive:
        axis.set_ylim(bottom, top)
        logarithmic(axis)
    axis.set_ylim(bottom, top)
    for end, edge, marker in (("low", bottom, "v"), ("high", top, "^")):
        ends = rows[end].to_numpy(dtype=float)
        beyond = np.isfinite(ends) & ((ends < bottom) | (ends > top))
        if beyond.any():
            depth = rows.loc[beyond, "depth"]
            look: dict[str, Any] = {
                "linestyle": "",
                "marker": marker,
                "markerfacecolor": "none",
                "color": "black",
            }
            axis.plot(
                depth, np.full(len(depth), edge), label="interval leaves the panel", clip_on=False, **look
            )


def _limits(
    points: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], positive: bool
) -> tuple[float, float]:
    """Of a panel: the points, and as much of the intervals as leaves the points room."""
    if positive:
        points, low, high = np.log10(points), np.log10(np.where(low > 0, low, np.nan)), np.log10(high)
    whole = np.isfinite(low) & np.isfinite(high)
    usual = float(np.median((high - low)[whole])) if whole.any() else 0.0
    room = ROOM * max(float(np.ptp(points)), usual)
    bottom = max(float(np.min([points.min(), *low[np.isfinite(low)]])), float(points.min()) - room)
    top = min(float(np.max([points.max(), *high[np.isfinite(high)]])), float(points.max()) + room)
    margin = 0.05 * (top - bottom) or 0.5
    ends = bottom - margin, top + margin
    return (10 ** ends[0], 10 ** ends[1]) if positive else ends
