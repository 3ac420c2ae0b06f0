"""Through which blocks does the gradient pass?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .style import GREY, Mark, house_style, marks


def block_participation(
    frame: pd.DataFrame,
    *,
    quantity: str = "participation",
    solid: tuple[str, ...] = ("identity",),
    each_branch: bool = False,
    x_label: str = "position of the block (index)",
    y_label: str = "signed share of gradient (1)",
    ax: Axes | None = None,
) -> Figure:
    """Signed share of the gradient that passes through each block's branch, a panel per state.

    The shares of all blocks add up to the mean path length, for a path counts at every branch it crosses; a negative
    one pulls against the rest. Blocks of other kinds than `solid` are hollow, and dotted vertical lines separate
    stages.

    Args:
        frame: As `gs.block_participation` returns it: columns `index`, `kind`, `value`; `quantity`, `state`, `branch`
            (-1: all of the block), `attention`, `stage` (neighbours of unlike stage are separated; without that
            column, a projection begins a stage), `seed`, `low`, `high` where there are any.
        quantity: Which rows are drawn.
        solid: Kinds drawn filled.
        each_branch: Blocks of several branches have a mark for each, side by side, instead of one for all.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are several states; None for a new figure.

    Raises:
        ValueError: The frame lacks a column or the quantity.

    Source:
        This package's own: a lesion of the backward pass alone, free of any shift in distribution.
    """
    who = "block_participation"
    require(frame, ["index", "kind", "value"], who)
    rows = only(frame.assign(state=frame.get("state", ""), branch=frame.get("branch", -1)), quantity, who)
    rows = _chosen(rows.assign(branch=rows["branch"].fillna(-1)), each_branch)
    inside = rows["attention"].fillna(False).astype(bool) if "attention" in rows.columns else False
    rows = rows.assign(name=rows["kind"].astype(str) + np.where(inside, ", attention", ""))
    kept, left_out = drawable(rows, ["index", "value"])
    summary = over_seeds(kept, ["state", "index", "kind", "name", "branch"], who)
    states = levels(rows, "state")
    kind_of = dict(zip(rows["name"], rows["kind"], strict=True))
    looks = marks(sorted(kind_of, key=lambda name: kind_of[name] not in solid))
    branches = [branch for branch in levels(rows, "branch") if branch >= 0]
    beside = {branch: 0.2 * (place - (len(branches) - 1) / 2) for place, branch in enumerate(branches)} | {
        -1: 0.0
    }
    with house_style():
        figure, axes = canvas(ax, len(states), columns=1, height=2.6, share_x=True, share_y=True)
        for axis, state in zip(axes, states, strict=True):
            some = summary[summary["state"] == state]
            for name, blocks in some.groupby("name", sort=False):
                place = blocks["index"] + blocks["branch"].map(beside)
                _stems(axis, place, blocks, looks[name], str(name), hollow=kind_of[name] not in solid)
            for border in _borders(rows[rows["state"] == state]):
                axis.axvline(border, color=GREY, linestyle=(0, (1.2, 1.2)), linewidth=1.0, zorder=0)
            axis.axhline(0, color="black", linewidth=0.6)
            axis.set_title(str(state))
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = interval_note(summary)
        axes[-1].set_xlabel(f"{x_label}\n{note}".rstrip())
        note_left_out(axes[-1], left_out, len(rows))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label, ax)
    return figure


def _chosen(rows: pd.DataFrame, each_branch: bool) -> pd.DataFrame:
    """Rows of whole blocks; or those of single branches, for the blocks that have them."""
    whole = rows["branch"] < 0
    split = rows[~whole]
    if not each_branch:
        return rows[whole] if whole.any() else rows
    return rows[~whole | ~rows["index"].isin(split["index"])]


def _stems(axis: Axes, place: pd.Series, blocks: pd.DataFrame, look: Mark, name: str, hollow: bool) -> None:
    values = blocks["value"].to_numpy(dtype=float)
    axis.vlines(
        place, np.minimum(values, 0), np.maximum(values, 0), color=look.colour, alpha=0.5, linewidth=2.2
    )
    axis.errorbar(
        place,
        values,
        yerr=whiskers(blocks),
        fmt=look.marker,
        color=look.colour,
        markerfacecolor="white" if hollow else look.colour,
        markersize=5,
        capsize=2,
        elinewidth=0.9,
        label=name or "block",
        zorder=3,
    )


def _borders(rows: pd.DataFrame) -> list[float]:
    """Halfway between neighbouring blocks of unlike stage."""
    blocks = rows.dropna(subset=["index"]).drop_duplicates("index").sort_values("index")
    if "stage" not in rows.columns:
        blocks = blocks.assign(stage=(blocks["kind"] == "projection").cumsum())
    places, stages = blocks["index"].to_list(), blocks["stage"].to_list()
    return [
        (places[i] + places[i + 1]) / 2
        for i in range(len(places) - 1)
        if stages[i] != stages[i + 1] and not (pd.isna(stages[i]) and pd.isna(stages[i + 1]))
    ]
