"""Cells of a table or matrix: an exact zero, the undefined, the unmeasured, the unconverged all look different."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from .heat import CROSSED, HATCH
from .scales import plain_number
from .style import BLACK, BLUE, GREY

# Luminance falls steadily; the lightest colour is no white, which is kept for an exact zero.
SHADES = LinearSegmentedColormap.from_list("shades", ["#dcebf5", BLUE, "#00182a"])
ZERO, UNDEFINED, UNMEASURED, NEGATIVE = "0: exactly zero", "undefined", "not measured", "negative"
FACES = {UNMEASURED: "#d9d9d9", UNDEFINED: "white", ZERO: "white"}
HATCHES = {UNDEFINED: CROSSED, NEGATIVE: HATCH}
UNCONVERGED = "hollow ring: not converged"
# From this shade on, letters are white.
DARK = 0.45


def shaded_cells(
    axis: Axes,
    values: NDArray[np.float64],
    shades: NDArray[np.float64],
    measured: NDArray[np.bool_],
    *,
    exact: NDArray[np.bool_] | None = None,
    unconverged: NDArray[np.bool_] | None = None,
    numbers: bool = False,
) -> None:
    """Draw cells centred on whole numbers, row 0 on top. A legend of the axes names the kinds that are there.

    Args:
        axis: Where.
        values: [rows, columns]; NaN is undefined.
        shades: [rows, columns], from 0, light, to 1, dark.
        measured: [rows, columns]; False where there is nothing to draw.
        exact: [rows, columns]; False where a 0 is no exact one, such as an estimate that was clipped. None for none.
        unconverged: [rows, columns]; True where a ring in the corner says so. None for none.
        numbers: Write the value into every cell.
    """
    named: set[str] = set()
    for (row, column), value in np.ndenumerate(values):
        zero = exact is None or bool(exact[row, column])
        kind, shade = _kind(value, bool(measured[row, column]), zero), float(shades[row, column])
        axis.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor=FACES.get(kind, SHADES(shade)),
                edgecolor=GREY,
                linewidth=0.3,
                hatch=HATCHES.get(kind),
                label=kind if kind and kind not in named else None,
            )
        )
        named.add(kind)
        if kind == ZERO or (numbers and kind in ("", NEGATIVE)):
            axis.text(
                column,
                row,
                plain_number(float(f"{value:.2g}")),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if kind == "" and shade > DARK else BLACK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6} if kind == NEGATIVE else None,
            )
    if unconverged is not None and unconverged.any():
        down, right = np.nonzero(unconverged)
        (ring,) = axis.plot(right + 0.4, down - 0.3, "o", color=BLACK, markersize=4.5, label=UNCONVERGED)
        ring.set_markerfacecolor("white")
    axis.set_xlim(-0.5, values.shape[1] - 0.5)
    axis.set_ylim(values.shape[0] - 0.5, -0.5)
    axis.grid(False)


def shade_bar(axis: Axes, norm: Normalize, label: str) -> None:
    """The colour bar, inset beside the axes, so that it needs no room of its own in a caller's."""
    bar = axis.inset_axes((1.02, 0.0, 0.03, 1.0))
    bar.grid(False)
    colours = axis.get_figure(root=True).colorbar(ScalarMappable(norm, SHADES), cax=bar)  # type: ignore[union-attr]
    colours.outline.set_visible(False)
    if isinstance(norm, LogNorm):
        decades = float(norm.vmax or 1) > 10 * float(norm.vmin or 1)
        bar.yaxis.set_major_locator(LogLocator(numticks=7) if decades else MaxNLocator(4))
        if not decades:
            bar.yaxis.set_minor_locator(NullLocator())
        bar.yaxis.set_minor_formatter(NullFormatter())
    bar.yaxis.set_major_formatter(FuncFormatter(plain_number))
    bar.set_ylabel(label, fontsize=8)


def _kind(value: float, measured: bool, exact: bool) -> str:
    if not measured:
        return UNMEASURED
    if not np.isfinite(value):
        return UNDEFINED
    return ZERO if value == 0 and exact else NEGATIVE if value < 0 else ""
