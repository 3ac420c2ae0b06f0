"""Do the Hessian's eigenvalues stand where the closed form puts them?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, levels, note_left_out, require
from .style import BLUE, GREY, house_style


def eigenvalue_stems(
    frame: pd.DataFrame,
    *,
    x_label: str = "eigenvalue (loss per squared parameter)",
    y_label: str = "multiplicity (count)",
    ax: Axes | None = None,
) -> Figure:
    """The dense Hessian's eigenvalues on top of the closed form, a panel per number of blocks.

    A stem's height is how many eigenvalues stand at that place (to 1e-6 of the largest), so equal
    supports with growing multiplicity are seen at a glance. The number itself is in the title where it is the same
    everywhere, and else beside the stems that have room for it.

    Args:
        frame: Columns `blocks`, `quantity` ("eigenvalue", and "closed_form" for +-sigma_i), `value`;
            of one seed, since spectra of two seeds have no places in common.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several numbers; None for a new figure.

    Source:
        Li et al. (2016), arXiv:1611.01186, theorem 1: the spectrum is +- the singular values of
        Sigma_XX - Sigma_YX, whatever the number of blocks.
    """
    require(frame, ["blocks", "quantity", "value"], "eigenvalue_stems")
    if "seed" in frame.columns and frame["seed"].nunique() > 1:
        raise ValueError(
            f"eigenvalue_stems draws the spectrum of one seed, but the frame has {frame['seed'].nunique()}. "
            "Filter it first: frame[frame['seed'] == ...]."
        )
    counts = levels(frame, "blocks")
    with house_style():
        figure, axes = canvas(ax, len(counts), columns=1, height=1.7, share_x=True)
        for axis, blocks in zip(axes, counts, strict=True):
            rows = frame[frame["blocks"] == blocks]
            kept, left_out = drawable(rows, ["value"])
            places, heights = _multiplicities(
                kept.loc[kept["quantity"] == "eigenvalue", "value"].to_numpy(dtype=float)
            )
            closed = kept.loc[kept["quantity"] == "closed_form", "value"]
            for i, place in enumerate(closed):
                label = "closed form" if i == 0 else None
                axis.axvline(place, color=GREY, linestyle=(0, (3, 2)), linewidth=0.9, label=label)
            axis.vlines(places, 0, heights, color=BLUE, linewidth=1.6)
            axis.plot(places, heights, "o", color=BLUE, label="dense Hessian")
            number = f"{blocks:g} block" + ("" if blocks == 1 else "s")
            axis.set_title(number + _repeated(axis, places, heights))
            axis.set_ylim(0, 1.35 * max([1, *heights]))
            axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axis.set_xlabel(x_label if axis is axes[-1] else "")
            note_left_out(axis, left_out, len(rows))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _repeated(axis: Axes, places: np.ndarray, heights: np.ndarray) -> str:
    """The multiplicity for the title where there is only one; else written above stems that stand far enough apart."""
    if len(set(heights)) == 1:
        times = int(heights[0])
        return f": every place {times} time{'' if times == 1 else 's'}"
    reach = np.ptp(places) if len(places) else 0.0
    for i, (place, height) in enumerate(zip(places, heights, strict=True)):
        if np.delete(np.abs(places - place), i).min(initial=np.inf) > 0.04 * reach:
            axis.annotate(
                f"×{height}",
                (place, height),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    return ""


def _multiplicities(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places and how many values stand there: a gap above 1e-6 of the largest starts a new place."""
    values = np.sort(values)
    if not len(values):
        return values, np.zeros(0, dtype=int)
    starts = np.flatnonzero(np.diff(values, prepend=-np.inf) > 1e-6 * np.abs(values).max())
    groups = np.split(values, starts[1:])
    return np.array([group.mean() for group in groups]), np.array([len(group) for group in groups])
