"""Over how many neighbouring inputs does a gradient remember itself?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
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
from .style import GREY, Mark, house_style, marks

BAND = ("band_low", "band_high")


def autocorrelation(
    frame: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    *,
    x_label: str = "lag (grid steps)",
    y_label: str = "autocorrelation (dimensionless)",
    ax: Axes | None = None,
) -> Figure:
    """Autocorrelation of input gradients against lag: a panel per family, a line per depth.

    Args:
        frame: Columns `family`, `layers` (NaN for a noise), `lag`, `value`, and `seed`, `low`,
            `high` where there are any. The 95 % band of white noise is read from the columns
            `band_low` and `band_high`, or from rows whose quantity is one of these two names.
        theory: Columns `family`, `lag`, `value`, `law`, and `layers` where a law depends on it.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 2.
    """
    who = "autocorrelation"
    require(frame, ["family", "layers", "lag", "value"], who)
    band = _band(frame)
    if "quantity" in frame.columns:
        frame = frame[~frame["quantity"].isin(BAND)]
    single_quantity(frame, who)
    kept, left_out = drawable(frame, ["lag", "value"])
    summary = over_seeds(kept, ["family", "layers", "lag"], who)
    families = levels(frame, "family")
    looks = marks(levels(frame, "layers"))
    with house_style():
        figure, axes = canvas(ax, len(families), height=2.7, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            if band is not None:
                axis.axhspan(*band, color=GREY, alpha=0.25, linewidth=0, label="95 % band of white noise")
            for layers, rows in summary[summary["family"] == family].groupby(
                "layers", sort=True, dropna=False
            ):
                rows = rows.sort_values("lag")
                noise = pd.isna(layers)
                look = Mark(GREY, "x", "-") if noise else looks[layers]
                label = "noise" if noise else f"{layers:g} layers"
                bars = whiskers(rows)
                axis.errorbar(rows["lag"], rows["value"], yerr=bars, label=label, capsize=2, **look.line())
            if theory is not None:
                _curves(axis, theory, family, looks)
            axis.axhline(0, color="black", linewidth=0.6)
            axis.set_title(str(family))
            axis.set_xlabel(x_label)
        note = interval_note(summary)
        axes[0].set_xlabel(f"{x_label}\n{note}" if note else x_label)
        note_left_out(axes[0], left_out, len(frame))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _band(frame: pd.DataFrame) -> tuple[float, float] | None:
    """Lower and upper edge; the widest where traces of several lengths are shown together."""
    if set(BAND) <= set(frame.columns):
        low, high = frame[BAND[0]].min(), frame[BAND[1]].max()
    elif "quantity" in frame.columns and set(BAND) <= set(frame["quantity"]):
        low = frame.loc[frame["quantity"] == BAND[0], "value"].min()
        high = frame.loc[frame["quantity"] == BAND[1], "value"].max()
    else:
        return None
    return None if pd.isna(low) or pd.isna(high) else (float(low), float(high))


def _curves(axis: Axes, theory: pd.DataFrame, family: object, looks: dict) -> None:
    require(theory, ["family", "lag", "value", "law"], "autocorrelation (theory)")
    columns = ["law", "layers"] if "layers" in theory.columns else ["law"]
    for key, rows in theory[theory["family"] == family].groupby(columns, sort=False, dropna=False):
        look = looks.get(key[1]) if len(columns) == 2 else None
        rows = drawable(rows, ["lag", "value"])[0].sort_values("lag")
        axis.plot(
            rows["lag"],
            rows["value"],
            color=look.colour if look else "black",
            linestyle=(0, (3, 2)),
            linewidth=0.9,
            label=f"theory: {key[0]}" + (f", {key[1]:g} layers" if look else ""),
        )
