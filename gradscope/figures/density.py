"""How are the Hessian's eigenvalues distributed, and which stand apart?"""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
from .frames import drawable, levels, note_left_out, require
from .scales import logarithmic, plain_number, symmetric_logarithmic
from .style import GREY, Mark, house_style, marks

CAVEAT = (
    "linear inside the shaded middle, logarithmic outside;\n"
    "shaded: the resolution, so no shape or sign in there is real"
)
ZERO_ROWS = "zero_row_fraction"


def spectral_density(
    frame: pd.DataFrame,
    *,
    hue: str = "family",
    quantity: str = "spectral_density",
    panels: str | None = None,
    position: str = "eigenvalue",
    floor: float = 1e-7,
    x_label: str = "eigenvalue (loss per squared parameter)",
    y_label: str = "density\n(squared parameters per loss)",
    ax: Axes | None = None,
) -> Figure:
    """Spectral density with its band, the extreme eigenvalues as ticks, the resolution shaded.

    Under each panel stands which share of the weights has a row of zeros in the Hessian, and thus an eigenvalue of
    exactly zero, where the frame has it: a smoothed density shows that atom as one more bump.

    Args:
        frame: Rows of `quantity` (`value` at the place `position`, with `low` and `high` over probes,
            and `resolution`, the narrowest feature the method can show, where it is known), and
            perhaps rows of quantity "eigenvalue" (`value`, its residual bound as `low` and `high`) and
            "zero_row_fraction".
        hue: Condition told apart by colour and dash. Each level's resolution is shaded.
        quantity: Which rows are the density.
        panels: Condition with a panel of its own (such as "state"); None for one panel.
        position: Column of the density's places.
        floor: Densities below this share of the largest are under the axis, not lost.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several panels; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, or a panel has no positive density.

    Source:
        Ghorbani et al. (2019), arXiv:1901.10159; Yao et al. (2020), PyHessian, arXiv:1912.07145.
    """
    who = "spectral_density"
    if "quantity" not in frame.columns:
        frame = frame.assign(quantity=quantity)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "as measured"})
    require(frame, [hue, position, "quantity", "value", *([panels] if panels else [])], who)
    frame = frame.assign(low=frame.get("low", np.nan), high=frame.get("high", np.nan))
    frame = frame.assign(resolution=frame.get("resolution", np.nan))
    looks = marks(levels(frame, hue))
    groups = levels(frame, panels) if panels else [None]
    zeros = [_zero_rows(frame[frame[panels] == group] if panels else frame, hue, looks) for group in groups]
    more = 0.17 * max(text.count("\n") + bool(text) for text in zeros)
    with house_style():
        figure, axes = canvas(ax, len(groups), columns=1, height=2.9 + more, share_x=True)
        for axis, group, atoms in zip(axes, groups, zeros, strict=True):
            rows = frame[frame[panels] == group] if panels else frame
            density = rows[rows["quantity"] == quantity]
            kept, left_out = drawable(density, [position, "value"])
            if not (kept["value"] > 0).any():
                raise ValueError(
                    f"{who} found no positive density in panel {group}: all {len(density)} rows of quantity "
                    f"{quantity!r} are zero, negative or not finite. See their status and reason."
                )
            seeds = kept["seed"].unique() if "seed" in kept.columns else [None]
            for name, curve in kept.groupby(hue, sort=False):
                for i, seed in enumerate(seeds):
                    one = (curve if seed is None else curve[curve["seed"] == seed]).sort_values(position)
                    _curve(axis, one, position, looks[name], str(name) if i == 0 else None)
            top = float(kept["value"].max())
            extremes = rows[rows["quantity"] == "eigenvalue"]
            lanes = extremes[hue].nunique()
            # The lanes of eigenvalues lie along the top edge, above the highest density.
            axis.set_ylim(floor * top, top * 30 ** max(1, lanes / 2))
            logarithmic(axis)
            _ticks(axis, extremes, hue, looks)
            widths = kept.groupby(hue, sort=False)["resolution"].max().dropna()
            _horizontal(axis, kept[position], widths)
            axis.set_title("" if group is None else str(group))
            foot = [x_label, CAVEAT if len(widths) else ""] if axis is axes[-1] else []
            axis.set_xlabel("\n".join(line for line in [*foot, atoms] if line))
            note_left_out(axis, left_out, len(density))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _curve(axis: Axes, rows: pd.DataFrame, position: str, look: Mark, label: str | None) -> None:
    axis.plot(rows[position], rows["value"], color=look.colour, linestyle=look.dash, label=label)
    axis.fill_between(
        rows[position].to_numpy(dtype=float),
        rows["low"].to_numpy(dtype=float),
        rows["high"].to_numpy(dtype=float),
        color=look.colour,
        alpha=0.2,
        linewidth=0,
    )


def _horizontal(axis: Axes, places: pd.Series, widths: pd.Series) -> None:
    """The scale of the eigenvalues, and each level's resolution: darkest where no level can tell."""
    extent = float(places.min()), float(places.max())
    widest = float(widths.max()) if len(widths) else 0.0
    linear = widest if widest > 0 else 1e-2 * max(map(abs, extent))
    symmetric_logarithmic(axis, linear, extent)
    shade = 0.18 / max(1, widths.nunique()) ** 0.5
    for i, width in enumerate(widths.unique()):
        axis.axvspan(
            -width, width, color=GREY, alpha=shade, linewidth=0, label="resolution" if i == 0 else None
        )


def _zero_rows(rows: pd.DataFrame, hue: str, looks: dict) -> str:
    """Share of weights without curvature by level, as lines of text; empty where it was not measured."""
    known = drawable(rows[rows["quantity"] == ZERO_ROWS], ["value"])[0]
    shares = known.groupby(hue, sort=False)["value"].mean()
    numbers = {name: plain_number(float(f"{shares[name]:.3g}")) for name in looks if name in shares.index}
    named = (
        [f"{name}: {number}" for name, number in numbers.items()] if len(looks) > 1 else [*numbers.values()]
    )
    return fill(f"share of rows that are exactly zero: {'; '.join(named)}", 58) if named else ""


def _ticks(axis: Axes, rows: pd.DataFrame, hue: str, looks: dict) -> None:
    """Eigenvalues along the top edge, a lane per level, with their residual bounds as bars."""
    names = [name for name in looks if (rows[hue] == name).any()]
    for lane, name in enumerate(names):
        some = drawable(rows[rows[hue] == name], ["value"])[0]
        height = 0.97 - 0.055 * lane
        bars = np.stack([some["value"] - some["low"], some["high"] - some["value"]]).astype(float)
        axis.errorbar(
            some["value"],
            np.full(len(some), height),
            xerr=np.clip(np.nan_to_num(bars), 0, None),
            fmt=looks[name].marker,
            color=looks[name].colour,
            markersize=4,
            transform=axis.get_xaxis_transform(),
            label=f"{name}: extreme eigenvalues",
        )
