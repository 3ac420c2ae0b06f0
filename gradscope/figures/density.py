"""How are the Hessian's eigenvalues distributed, and which stand apart?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
from .frames import drawable, levels, note_left_out, require
from .scales import logarithmic, symmetric_logarithmic
from .style import GREY, house_style, marks


def spectral_density(
    frame: pd.DataFrame,
    *,
    hue: str = "family",
    quantity: str = "spectral_density",
    panels: str | None = None,
    position: str = "eigenvalue",
    floor: float = 1e-7,
    x_label: str = "eigenvalue (loss per squared parameter)",
    y_label: str = "density (per unit eigenvalue)",
    ax: Axes | None = None,
) -> Figure:
    """Spectral density with its band, the extreme eigenvalues as ticks, the resolution shaded.

    Args:
        frame: Rows of `quantity` (`value` at the place `position`, with `low` and `high` over probes,
            and `resolution`, the narrowest feature the method can show, where it is known), and
            perhaps rows of quantity "eigenvalue" (`value`, its residual bound as `low` and `high`).
        hue: Condition told apart by colour and dash.
        quantity: Which rows are the density.
        panels: Condition with a panel of its own (such as "state"); None for one panel.
        position: Column of the density's places.
        floor: Densities below this share of the largest are under the axis, not lost.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several panels; None for a new figure.

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
    with house_style():
        figure, axes = canvas(ax, len(groups), columns=1, height=2.9, share_x=True)
        for axis, group in zip(axes, groups, strict=True):
            rows = frame[frame[panels] == group] if panels else frame
            density = rows[rows["quantity"] == quantity]
            width = density["resolution"].max()
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
            axis.set_ylim(floor * top, 30 * top)
            logarithmic(axis)
            _ticks(axis, rows[rows["quantity"] == "eigenvalue"], hue, looks)
            extent = float(kept[position].min()), float(kept[position].max())
            linear = width if np.isfinite(width) and width > 0 else 1e-2 * max(map(abs, extent))
            symmetric_logarithmic(axis, float(linear), extent)
            if np.isfinite(width):
                axis.axvspan(-width, width, color=GREY, alpha=0.18, linewidth=0, label="resolution")
            axis.set_title("" if group is None else str(group))
            axis.set_xlabel(f"{x_label}\nlogarithmic outside the shaded middle" if axis is axes[-1] else "")
            note_left_out(axis, left_out, len(density))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _curve(axis: Axes, rows: pd.DataFrame, position: str, look: object, label: str | None) -> None:
    axis.plot(rows[position], rows["value"], color=look.colour, linestyle=look.dash, label=label)  # type: ignore[attr-defined]
    axis.fill_between(
        rows[position].to_numpy(dtype=float),
        rows["low"].to_numpy(dtype=float),
        rows["high"].to_numpy(dtype=float),
        color=look.colour,  # type: ignore[attr-defined]
        alpha=0.2,
        linewidth=0,
    )


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
