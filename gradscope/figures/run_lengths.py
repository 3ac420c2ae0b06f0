"""Over how many neighbouring inputs do units stay active, or inactive?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
from .frames import drawable, levels, note_left_out, require, single_quantity
from .panels import layers_name, named, refuse_mixed
from .style import house_style, marks


def run_lengths(
    frame: pd.DataFrame,
    *,
    x_label: str = "length of a run (inputs)",
    y_label: str = "share of runs (sums to 1)",
    ax: Axes | None = None,
) -> Figure:
    """Histogram of the lengths of runs of constant activity, by classes that double: a panel per family.

    Classes are 1, 2, 3 to 4, 5 to 8, and so on; a point stands at the end of its class. Runs of all seeds are counted
    together.

    Args:
        frame: As `activity_raster` returns it, a line for each site; or columns `family`, `layers`, `length`, `value`,
            the number of runs of that length.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several families; None for a new figure.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 4.
    """
    given, frame = frame, named(frame, "runs")
    require(frame, ["family", "layers", "length", "value"], "run_lengths")
    single_quantity(frame, "run_lengths")
    refuse_mixed(frame, given, ["length"], "run_lengths")
    kept, left_out = drawable(frame, ["length", "value"])
    kept = kept.assign(ends=2.0 ** np.ceil(np.log2(kept["length"].to_numpy(dtype=float))))
    families = levels(frame, "family")
    looks = marks(levels(frame, "layers"))
    with house_style():
        figure, axes = canvas(ax, len(families), height=2.7, share_x=True, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            for layers in looks:
                rows = kept[(kept["family"] == family) & (kept["layers"] == layers)]
                if rows.empty:
                    continue
                counts = rows.groupby("ends")["value"].sum()
                shares = counts / counts.sum()
                axis.plot(shares.index, shares, label=layers_name(layers), **looks[layers].line())
            axis.set_title(str(family))
            axis.set_xlabel(x_label)
        _doubling(axes[0], kept["ends"].max() if len(kept) else 1.0)
        note_left_out(axes[0], left_out, len(frame))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _doubling(axis: Axes, largest: float) -> None:
    """Ticks at every second power of two, as plain numbers, on an axis that others may share."""
    ticks = [2**power for power in range(0, int(np.log2(largest)) + 1, 2)]
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
