"""Does the network stretch all directions of its input alike?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, levels, note_left_out, only, require
from .scales import logarithmic
from .style import GREY, house_style, marks


def jacobian_spectrum(
    frame: pd.DataFrame,
    *,
    quantity: str = "singular_value",
    hue: str = "family",
    bins: int = 40,
    isometry: tuple[float, float] = (0.5, 2.0),
    floor: float = 1e-6,
    x_label: str = "singular value (output per input)",
    y_label: str = "share of singular values (per bin)",
    ax: Axes | None = None,
) -> Figure:
    """Histogram of a Jacobian's singular values on a logarithmic axis, beside the band of near isometry.

    Examples and seeds are pooled. Shares are of all singular values, those too small for the axis included.

    Args:
        frame: As `jacobian_spectrum` returns it, or columns `value` and, where there are any, `quantity` and `hue`.
        quantity: Which rows are the singular values.
        hue: Condition told apart by colour and dash; left out for one network.
        bins: Over the whole axis, of equal width on the logarithmic scale.
        isometry: Lowest and highest singular value that count as near 1; shaded.
        floor: Singular values below this share of the largest one are zero to rounding, counted and not drawn.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Source:
        Pennington et al. (2017), arXiv:1711.04735.
    """
    who = "jacobian_spectrum"
    require(frame, ["value"], who)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "measured"})
    rows = only(frame, quantity, who)
    kept, left_out = drawable(rows, ["value"])
    largest = float(kept["value"].max()) if len(kept) else 1.0
    shown = kept[kept["value"] > floor * largest]
    looks = marks(levels(rows, hue))
    with house_style():
        figure, (axis,) = canvas(ax, height=3.2)
        low = min([isometry[0], *shown["value"]]) / 1.2
        high = max([isometry[1], largest]) * 1.2
        edges = np.geomspace(low, high, bins + 1)
        axis.axvspan(
            *isometry, color=GREY, alpha=0.18, linewidth=0, label=f"within {isometry[0]:g} to {isometry[1]:g}"
        )
        axis.axvline(1, color=GREY, linewidth=0.8)
        for name, some in shown.groupby(hue, sort=False):
            counts, _ = np.histogram(some["value"], bins=edges)
            whole = int((kept[hue] == name).sum())
            axis.stairs(
                counts / whole,
                edges,
                color=looks[name].colour,
                linestyle=looks[name].dash,
                linewidth=1.6,
                label=str(name),
            )
        axis.set_xlim(low, high)
        logarithmic(axis, "x")
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        note_left_out(axis, left_out, len(rows))
        note_left_out(axis, len(kept) - len(shown), len(rows), "zero to rounding")
        legend_below(figure, [axis], ax)
    return figure
