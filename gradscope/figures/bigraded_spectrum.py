"""How does the gradient split by two kinds of branches at once?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require
from .heat import cells, colour_label, ticks_at
from .style import house_style

FEW = 64
# What may be added up over kinds that are not drawn.
ADDITIVE = ("signed_share", "path_count")


def bigraded_spectrum(
    frame: pd.DataFrame,
    *,
    quantity: str = "signed_share",
    kinds: Sequence[str] | None = None,
    label: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Share of the gradient by branches of a first and of a second kind crossed, as a heat map, a panel per state.

    Cells of negative share are hatched; with at most 64 cells each bears its value.

    Args:
        frame: Two columns named `length_<kind>` (whole numbers), such as `length_attention` along x and `length_mlp`
            along y, in the frame's order; `value`; and `quantity`, `state`, `seed` where there are any.
        quantity: Which rows are drawn.
        kinds: The two kinds to be drawn, where the frame has more; shares and numbers of paths are summed over the
            others.
        label: Of the colour bar, with unit; None: the quantity with its own.
        x_label: With unit; None: the name of the first column.
        y_label: With unit; None: the name of the second.
        ax: Axes to draw into, divided when there are several states; None for a new figure.

    Raises:
        ValueError: The frame has fewer than two columns `length_<kind>`, or more and `kinds` does not choose; it lacks
            a column or the quantity; or a quantity that cannot be summed over other kinds.

    Source:
        The split is exact and this package's own; paths by length: Veit et al. (2016), arXiv:1605.06431.
    """
    who = "bigraded_spectrum"
    across, up = _chosen(frame, kinds, who)
    require(frame, [across, up, "value"], who)
    rows = only(frame.assign(state=frame.get("state", "")), quantity, who)
    rows = _summed_over_others(rows, across, up, quantity, who)
    kept, left_out = drawable(rows, [across, up, "value"])
    summary = over_seeds(kept, ["state", across, up], who)
    states = levels(rows, "state")
    with house_style():
        figure, axes = canvas(ax, len(states), columns=1, height=3.6)
        for axis, state in zip(axes, states, strict=True):
            some = summary[summary["state"] == state]
            ends = [int(rows[column].max()) if rows[column].notna().any() else 0 for column in (up, across)]
            table = np.full((ends[0] + 1, ends[1] + 1), np.nan)
            table[some[up].to_numpy(dtype=int), some[across].to_numpy(dtype=int)] = some["value"]
            cells(
                axis,
                table,
                label=label or colour_label(rows, quantity),
                numbers=table.size <= FEW,
            )
            ticks_at(axis, range(table.shape[1]))
            ticks_at(axis, range(table.shape[0]), "y")
            axis.set_title(str(state))
        note = interval_note(summary).split(",")[0] if len(summary) and summary["n"].max() > 1 else ""
        axes[-1].set_xlabel(f"{x_label or _name(across)}\n{note}".rstrip())
        note_left_out(axes[-1], left_out, len(rows))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label or _name(up), ax)
    return figure


def _chosen(frame: pd.DataFrame, kinds: Sequence[str] | None, who: str) -> tuple[str, str]:
    found = [str(column) for column in frame.columns if str(column).startswith("length_")]
    names = [column.removeprefix("length_") for column in found]
    if len(found) < 2:
        raise ValueError(
            f"{who} draws two kinds of branches against each other, but the frame has {len(found)}"
            f"{f', {names[0]}' if names else ''}: columns named length_<kind>, as of graded_path_spectrum. For one "
            "kind, draw path_lengths."
        )
    chosen = names if kinds is None else list(kinds)
    if len(chosen) != 2 or not set(chosen) <= set(names):
        raise ValueError(
            f"{who} draws two of the kinds {', '.join(names)}, got {', '.join(map(str, chosen))}. Name two, such as "
            f"kinds={tuple(names[:2])}."
        )
    return f"length_{chosen[0]}", f"length_{chosen[1]}"


def _summed_over_others(rows: pd.DataFrame, across: str, up: str, quantity: str, who: str) -> pd.DataFrame:
    others = [c for c in rows.columns if str(c).startswith("length_") and c not in (across, up)]
    if not others:
        return rows
    if quantity not in ADDITIVE:
        raise ValueError(
            f"{who} sums {' and '.join(ADDITIVE)} over the kinds that are not drawn; {quantity} does not add up. "
            f"Choose the rows of one combination of {', '.join(others)} first."
        )
    by = [across, up, "state", *(name for name in ("seed", "unit") if name in rows.columns)]
    summed = rows.groupby(by, dropna=False)["value"].agg(lambda values: values.sum(skipna=False))
    return summed.reset_index()


def _name(column: str) -> str:
    return f"{column.removeprefix('length_').replace('_', ' ')} branches crossed (number)"
