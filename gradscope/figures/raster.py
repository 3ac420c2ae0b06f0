"""Which units are active on which input of a line?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y
from .frames import drawable, note_left_out, require
from .panels import WIDE, X_LABEL, by_condition, named, one_seed, refuse_mixed, wrapped
from .style import BLACK, house_style


def raster(
    frame: pd.DataFrame,
    *,
    columns: int = 2,
    x_label: str = X_LABEL,
    y_label: str = "unit (number)",
    ax: Axes | None = None,
) -> Figure:
    """A row for each unit, black where it is active: stripes where units seldom switch, dust where they toss coins.

    Args:
        frame: As `activity_raster` returns it, a panel for each site; or columns `family`, `layers`, `neuron`, `x`,
            `value` (1 active, 0 not), a panel per family and depth. Of several seeds the first is drawn, and the title
            says so.
        columns: Panels per row.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to divide into panels; None for a new figure.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 4.
    """
    given, frame = frame, named(frame, "active")
    require(frame, ["family", "layers", "neuron", "x", "value"], "raster")
    refuse_mixed(frame, given, ["neuron", "x"], "raster")
    panels = [one_seed(title, rows) for title, rows in by_condition(frame)]
    with house_style():
        figure, axes = canvas(ax, len(panels), columns=columns, height=2.1, share_x=True)
        for axis, (title, rows) in zip(axes, panels, strict=True):
            kept, left_out = drawable(rows, ["neuron", "x", "value"])
            table = kept.pivot(index="neuron", columns="x", values="value")
            axis.grid(False)
            if min(table.shape) > 1:
                states = np.ma.masked_invalid(table.to_numpy(dtype=float))
                axis.pcolormesh(
                    *(table.columns.to_numpy(), table.index.to_numpy(), states),
                    cmap=ListedColormap(["#ffffff", BLACK]),
                    vmin=0,
                    vmax=1,
                    shading="nearest",
                    rasterized=True,
                )
            axis.set_title(wrapped(title, WIDE))
            axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axis.set_xlabel(x_label if axis in axes[-min(columns, len(axes)) :] else "")
            note_left_out(axis, left_out, len(rows))
        label_y(figure, axes, y_label, ax)
    return figure
