"""After how many products is an eigenvalue known, and how well?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import drawable, note_left_out, only, require
from .hollow import hollow
from .scales import logarithmic
from .style import Mark, house_style, marks


def eigenvalue_convergence(
    frame: pd.DataFrame,
    *,
    quantity: str = "eigenvalue",
    x_label: str = "products with the Hessian (count)",
    ax: Axes | None = None,
) -> Figure:
    """Estimates of the extreme eigenvalues with their residual bounds, against the products spent.

    The upper panel holds the values, each with the interval in which some eigenvalue lies; the lower one half the width
    of that interval beside the largest size among the last values. Hollow points had not converged.

    Args:
        frame: As `eigenvalue_convergence` returns it: columns `products`, `rank` (1 the largest, -1 the smallest),
            `value`, `low`, `high`, and `quantity`, `status`, `seed` (a line for each start) where there are any.
        quantity: Which rows are drawn.
        x_label: With unit.
        ax: Axes to draw into, divided; None for a new figure.

    Raises:
        ValueError: The frame lacks a column or the quantity, or mixes conditions.

    Source:
        Some eigenvalue lies within the residual's norm of a Ritz value: Parlett (1980), The symmetric eigenvalue
        problem, section 4.5.
    """
    who = "eigenvalue_convergence"
    require(frame, ["products", "rank", "value", "low", "high"], who)
    frame = only(frame, quantity, who)
    starts = frame["seed"] if "seed" in frame.columns else pd.Series(0, index=frame.index)
    frame = frame.assign(
        start=starts, complete=(frame["status"] == "ok") if "status" in frame.columns else True
    )
    if frame.duplicated(["start", "rank", "products"]).any():
        raise ValueError(
            f"{who} draws one run of Lanczos for each seed, but several rows share their seed, rank and products. "
            "Filter the frame to one condition first."
        )
    kept, left_out = drawable(frame, ["products", "value"])
    kept = kept.assign(residual=(kept["high"] - kept["low"]) / 2).sort_values("products")
    ranks = sorted({int(rank) for rank in frame["rank"]}, key=lambda rank: (rank < 0, abs(rank)))
    looks = {rank: look for rank, look in zip(ranks, marks(ranks).values(), strict=True)}
    last = kept.groupby(["start", "rank"])["value"].last()
    scale = float(last.abs().max()) if len(last) and last.abs().max() > 0 else 1.0
    with house_style():
        figure, axes = canvas(ax, 2, columns=1, height=2.6, share_x=True)
        for rank, look in looks.items():
            for i, (_, rows) in enumerate(kept[kept["rank"] == rank].groupby("start", sort=False)):
                _values(axes[0], rows, look, _ordinal(rank) if i == 0 else None)
        _within(axes[0], kept)
        hidden = 0
        for _, rows in kept.groupby(["start", "rank"], sort=False):
            rank = int(rows["rank"].iloc[0])
            shown = rows.assign(value=rows["residual"] / scale)
            shown, gone = drawable(shown, ["value"], positive=True)
            hidden += gone
            axes[1].plot(shown["products"], shown["value"], **looks[rank].line(markersize=4))
            hollow(axes[1], shown[~shown["complete"]], "products", looks[rank], "hollow: not converged")
        logarithmic(axes[1])
        axes[0].set_ylabel("eigenvalue\n(loss per squared parameter)")
        axes[1].set_ylabel("bound on its error\n(share of the largest)")
        axes[1].xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        axes[1].set_xlabel(x_label)
        note_left_out(axes[1], left_out, len(frame))
        note_left_out(axes[1], hidden, len(frame), "bound zero or unknown, so not in the lower panel")
        legend_below(figure, axes, ax)
    return figure


def _values(axis: Axes, rows: pd.DataFrame, look: Mark, label: str | None) -> None:
    axis.plot(rows["products"], rows["value"], label=label, **look.line(markersize=4))
    low, high, place = (rows[name].to_numpy(dtype=float) for name in ("low", "high", "products"))
    axis.fill_between(place, low, high, color=look.colour, alpha=0.18, linewidth=0)
    hollow(axis, rows[~rows["complete"]], "products", look, "hollow: not converged")


def _within(axis: Axes, rows: pd.DataFrame) -> None:
    """Span the values, not the first intervals, which say next to nothing and would flatten the rest."""
    values = rows["value"].to_numpy(dtype=float)
    if not len(values):
        return
    margin = 0.12 * float(np.ptp(values)) or 0.1 * abs(float(values[0])) or 1.0
    axis.set_ylim(values.min() - margin, values.max() + margin)


def _ordinal(rank: int) -> str:
    """largest, 2nd largest, ..., smallest, 2nd smallest."""
    end = "largest" if rank > 0 else "smallest"
    number = abs(rank)
    if number == 1:
        return end
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix} {end}"
