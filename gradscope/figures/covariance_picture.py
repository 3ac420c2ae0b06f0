"""Where along a line of inputs are two gradients alike? The paper's picture of one draw, and the mean over draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .canvas import canvas, label_y
from .frames import drawable, note_left_out, require
from .panels import SQUARE, TRAVELLED, X_LABEL, by_condition, named, one_seed, refuse_mixed, scalars, wrapped
from .style import BLUE, house_style

# Luminance falls steadily, so that the picture reads the same in grey.
DARKENING = LinearSegmentedColormap.from_list("darkening", ["#ffffff", BLUE, "#00131e"])
# The mean of a single draw's diagonal is 1; what is above three times that is shown as three.
SINGLE_TOP, MEAN_TOP = 3.0, 1.0


def covariance_picture(
    frame: pd.DataFrame,
    *,
    columns: int = 2,
    x_label: str | None = None,
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """|(g - mean g)(g - mean g)^T| / variance of single traces g: the paper's "covariance matrix", of rank one.

    The mean is over inputs, and so is the variance. It is no covariance over draws, see `mean_covariance_picture`:
    bands as wide as the gradient keeps its sign and size, a checkered weave where it is noise.

    Args:
        frame: Columns `family`, `layers` (NaN for a noise), `x`, `value`; one panel per family and depth. Of several
            seeds the first is drawn, and the title says so.
        columns: Panels per row.
        x_label: With unit; None for the input, or the distance travelled between samples.
        y_label: With unit; None likewise.
        ax: Axes to divide into panels; None for a new figure.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 1, bottom row.
    """
    who = "covariance_picture"
    given, frame = frame, named(frame, "input_gradient")
    require(frame, ["family", "layers", "x", "value"], who)
    refuse_mixed(frame, given, ["x"], who)
    x_label, y_label = _labels(frame, x_label, y_label)
    panels = [one_seed(title, rows) for title, rows in by_condition(frame)]
    return _drawn(panels, SINGLE_TOP, "|z z′| / variance (1)", columns, x_label, y_label, ax)


def mean_covariance_picture(
    frame: pd.DataFrame,
    *,
    columns: int = 2,
    x_label: str | None = None,
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """|mean over draws of (g - mean g)(g - mean g)^T / variance|: where gradients are alike in most networks.

    Each draw is divided by its own variance over inputs before the mean, so that no draw dominates. White noise leaves
    the diagonal, brown noise two broad corners. With few draws what is unlike does not cancel: n draws leave 1/sqrt(n).

    Args:
        frame: As for `covariance_picture`, with a column `seed`. Inputs that some draw lacks are left out.
        columns: Panels per row.
        x_label: With unit; None for the input, or the distance travelled between samples.
        y_label: With unit; None likewise.
        ax: Axes to divide into panels; None for a new figure.
    """
    who = "mean_covariance_picture"
    given, frame = frame, named(frame, "input_gradient")
    require(frame, ["family", "layers", "seed", "x", "value"], who)
    refuse_mixed(frame, given, ["x"], who)
    x_label, y_label = _labels(frame, x_label, y_label)
    panels = [
        (f"{title} (mean of {rows['seed'].nunique()} draws)", rows) for title, rows in by_condition(frame)
    ]
    return _drawn(panels, MEAN_TOP, "|mean of z z′ / variance| (1)", columns, x_label, y_label, ax)


def _drawn(
    panels: list[tuple[str, pd.DataFrame]],
    top: float,
    label: str,
    columns: int,
    x_label: str,
    y_label: str,
    ax: Axes | None,
) -> Figure:
    with house_style():
        figure, axes = canvas(ax, len(panels), columns=columns, height=2.5)
        for axis, (title, rows) in zip(axes, panels, strict=True):
            kept, left_out = drawable(rows, ["x", "value"])
            place, matrix = _products(kept)
            axis.grid(False)
            axis.set_title(wrapped(title, SQUARE))
            axis.set_xlabel(x_label if axis in axes[-min(columns, len(axes)) :] else "")
            if len(place) > 1:
                mesh = axis.pcolormesh(
                    *(place, place, matrix),
                    cmap=DARKENING,
                    vmin=0.0,
                    vmax=top,
                    shading="nearest",
                    rasterized=True,
                )
                axis.set_aspect("equal")
                bar = axis.inset_axes((1.03, 0.0, 0.04, 1.0))
                bar.grid(False)
                colours = figure.colorbar(mesh, cax=bar, ticks=[0.0, top])
                colours.outline.set_visible(False)
                bar.set_yticklabels(["0", f"≥ {top:g}"])
                bar.set_ylabel(label if axis is axes[min(columns, len(axes)) - 1] else "")
            note_left_out(axis, left_out, len(rows))
        label_y(figure, axes, y_label, ax)
    return figure


def _labels(frame: pd.DataFrame, x_label: str | None, y_label: str | None) -> tuple[str, str]:
    of_inputs = (X_LABEL, X_LABEL.replace("x (", "x′ ("))
    usual = of_inputs if scalars(frame) else (TRAVELLED, TRAVELLED)
    return usual[0] if x_label is None else x_label, usual[1] if y_label is None else y_label


def _products(rows: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inputs, and |mean over draws of z z^T / variance|; nothing for traces without variance."""
    draws = rows.assign(seed=rows["seed"] if "seed" in rows.columns else 0)
    table = draws.pivot(index="seed", columns="x", values="value").dropna(axis="columns")
    traces = table.to_numpy(dtype=float)
    if traces.size == 0:
        return np.empty(0), np.empty((0, 0))
    centred = traces - traces.mean(axis=1, keepdims=True)
    sizes = np.abs(centred).max(axis=1, keepdims=True)
    if not (sizes > 0).all():
        return np.empty(0), np.empty((0, 0))
    centred = centred / sizes
    unit = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    return table.columns.to_numpy(dtype=float), np.abs(unit.T @ unit) / len(unit)
