"""Cells of a heat map that stay legible in grey: what is negative is hatched, what is missing is crossed out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from .scales import plain_number
from .style import BLUE, GREY, VERMILION

# Luminance falls steadily from zero towards both ends; the hatching tells the ends apart in grey.
AROUND_ZERO = LinearSegmentedColormap.from_list("around zero", [VERMILION, "#ffffff", BLUE, "#00263f"])
HATCH, CROSSED = "////", "xxxx"
# Below this part of the largest size a cell is white either way, and its sign would say nothing.
NEGLIGIBLE = 1e-3


def cells(axis: Axes, values: NDArray[np.float64], *, label: str, numbers: bool = False) -> None:
    """Draw `values` [rows, columns] as cells centred on whole numbers, row 0 at the bottom, with a colour bar.

    A legend of the axes names hatched and crossed-out cells, where there are any. Negative values below a thousandth
    of the largest size are not hatched.

    Args:
        axis: Where.
        values: NaN for a cell without value, which is crossed out.
        label: Of the colour bar, with unit.
        numbers: Write the value into every cell.
    """
    finite = values[np.isfinite(values)]
    top = float(finite.max(initial=0.0))
    lowest = float(finite.min(initial=0.0))
    # The map's white lies at a third: 0 is white, the largest value dark, the same step of colour on both sides.
    extent = max(top, -2 * lowest) or 1.0
    norm = Normalize(-extent / 2, extent)
    edges = [np.arange(size + 1) - 0.5 for size in values.shape]
    mesh = axis.pcolormesh(
        edges[1],
        edges[0],
        np.ma.masked_invalid(values),
        cmap=AROUND_ZERO,
        norm=norm,
        rasterized=values.size > 2000,
    )
    named: set[str] = set()
    seen = -NEGLIGIBLE * float(np.abs(finite).max(initial=0.0))
    for row, column in np.argwhere(~np.isfinite(values) | (values < seen)):
        missing = not np.isfinite(values[row, column])
        name = "no value" if missing else "negative"
        axis.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor="none",
                edgecolor=GREY,
                linewidth=0.0,
                hatch=CROSSED if missing else HATCH,
                label=None if name in named else name,
            )
        )
        named.add(name)
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = norm(value) > 0.65
                axis.text(
                    column,
                    row,
                    two_digits(value),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6} if value < 0 else None,
                )
    axis.grid(False)
    # Inset, so that it needs no room of its own in a caller's axes.
    bar = axis.inset_axes((1.02, 0.0, 0.03, 1.0))
    bar.grid(False)
    colours = axis.get_figure(root=True).colorbar(mesh, cax=bar)  # type: ignore[union-attr]
    colours.outline.set_visible(False)
    bar.set_ylim(min(lowest, 0.0), top or extent)
    bar.yaxis.set_major_formatter(FuncFormatter(plain_number))
    bar.yaxis.set_major_locator(MaxNLocator(nbins=6))
    bar.set_ylabel(label)


def colour_label(rows: pd.DataFrame, quantity: str) -> str:
    """The quantity with what it sums to, or with its unit, for a colour bar."""
    units = list(rows["unit"].dropna().unique()) if "unit" in rows.columns else []
    what = "sums to 1" if quantity == "signed_share" else units[0] if units else "1"
    return f"{quantity.replace('_', ' ')} ({what})"


def two_digits(value: float) -> str:
    """0.12, 0.012, 0, −0.3: at most two digits that count, nothing below a thousandth."""
    rounded = float(f"{value:.2g}")
    return "0" if abs(rounded) < 1e-3 else plain_number(rounded)


def ticks_at(axis: Axes, names: Sequence[object], which: str = "x", most: int = 9) -> None:
    """Name cells 0, 1, ... along an axis, every so many when there are more than `most`."""
    stride = -(-len(names) // most) if len(names) else 1
    places = list(range(0, len(names), stride))
    getattr(axis, f"set_{which}ticks")(places, [_text(names[place]) for place in places])


def _text(name: object) -> str:
    return plain_number(float(name)) if isinstance(name, int | float | np.number) else str(name)
