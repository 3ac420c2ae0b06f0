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
from .panels import layers_name, named, refuse_mixed
from .style import GREY, Mark, house_style, marks

BAND = ("band_low", "band_high")
AGAINST = {"lag": "lag (grid steps)", "distance": "distance (units of the input)"}


def autocorrelation(
    frame: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    *,
    against: str = "lag",
    x_label: str | None = None,
    y_label: str = "autocorrelation (dimensionless)",
    ax: Axes | None = None,
) -> Figure:
    """Autocorrelation of input gradients against lag: a panel per family, a line per depth.

    Args:
        frame: Columns `family`, `layers` (NaN for a noise), `lag`, `value`, and `seed`, `low`,
            `high` where there are any. The 95 % band of white noise is read from the columns
            `band_low` and `band_high`, or from rows whose quantity is one of these two names; bands of noises
            that a study measured (`reference`, with `noise`, `statistic`, `low`, `high`) are drawn into every panel.
            Other quantities beside `autocorrelation` are left aside, so that a frame of `input_trace` or `depth_traces`
            is drawn as it is.
        theory: Columns `family`, `lag` (or `distance`), `value`, `law`, and `layers` where a law depends on it.
        against: `lag`, or `distance` where traces of several spacings are compared.
        x_label: With unit; None for that of `against`.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 2.
    """
    who = "autocorrelation"
    if against not in AGAINST:
        raise ValueError(f"against is one of {', '.join(AGAINST)}, got {against!r}.")
    x_label = AGAINST[against] if x_label is None else x_label
    band, noises = _band(frame), _noises(frame, against)
    if "quantity" in frame.columns:
        frame = frame[~frame["quantity"].isin((*BAND, "reference"))]
    given, frame = frame, named(frame, "autocorrelation")
    require(frame, ["family", "layers", against, "value"], who)
    single_quantity(frame, who)
    refuse_mixed(frame, given, [against], who)
    kept, left_out = drawable(frame, [against, "value"])
    summary = over_seeds(kept, ["family", "layers", against], who)
    families = levels(frame, "family")
    looks = marks(levels(frame, "layers"))
    with house_style():
        figure, axes = canvas(ax, len(families), height=2.7, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            if band is not None:
                axis.axhspan(*band, color=GREY, alpha=0.25, linewidth=0, label="95 % band of white noise")
            for noise, rows in noises:
                _noise_band(axis, noise, rows, against)
            for layers, rows in summary[summary["family"] == family].groupby(
                "layers", sort=True, dropna=False
            ):
                rows = rows.sort_values(against)
                is_noise = pd.isna(layers)
                look = Mark(GREY, "x", "-") if is_noise else looks[layers]
                label = "noise" if is_noise else layers_name(layers)
                bars = whiskers(rows)
                axis.errorbar(rows[against], rows["value"], yerr=bars, label=label, capsize=2, **look.line())
            if theory is not None:
                _curves(axis, theory, family, looks, against)
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


def _noises(frame: pd.DataFrame, against: str) -> list[tuple[str, pd.DataFrame]]:
    """What noises of each length give, a row for each lag; the same numbers stand beside every condition."""
    if "quantity" not in frame.columns or "statistic" not in frame.columns:
        return []
    rows = frame[(frame["quantity"] == "reference") & (frame["statistic"] == "autocorrelation")]
    points = rows["points"] if "points" in rows.columns else 0
    rows = rows.assign(points=points).drop_duplicates(["noise", "points", against])
    groups: list[tuple[tuple, pd.DataFrame]] = list(rows.groupby(["noise", "points"], sort=False))
    return [(str(noise), group) for (noise, _), group in groups]


def _noise_band(axis: Axes, noise: str, rows: pd.DataFrame, against: str) -> None:
    rows = rows.sort_values(against)
    hatch = {"white noise": "", "brown noise": "...."}.get(noise, "xx")
    axis.fill_between(
        rows[against],
        rows["low"],
        rows["high"],
        facecolor=GREY if not hatch else "none",
        edgecolor=GREY,
        alpha=0.25,
        linewidth=0,
        hatch=hatch,
        label=f"{noise}, 95 % of traces",
    )


def _curves(axis: Axes, theory: pd.DataFrame, family: object, looks: dict, against: str) -> None:
    require(theory, ["family", against, "value", "law"], "autocorrelation (theory)")
    columns = ["law", "layers"] if "layers" in theory.columns else ["law"]
    for key, rows in theory[theory["family"] == family].groupby(columns, sort=False, dropna=False):
        look = looks.get(key[1]) if len(columns) == 2 else None
        rows = drawable(rows, [against, "value"])[0].sort_values(against)
        axis.plot(
            rows[against],
            rows["value"],
            color=look.colour if look else "black",
            linestyle=(0, (3, 2)),
            linewidth=0.9,
            label=f"theory: {key[0]}" + (f", {key[1]:g} layers" if look else ""),
        )
