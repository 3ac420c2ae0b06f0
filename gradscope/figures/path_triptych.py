"""How many paths of each length, how strong is one, and what do they carry together?"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require
from .path_lengths import PALE, SHARES
from .scales import logarithmic, plain_number
from .style import house_style, marks

COUNTS = {"path_count": "paths (number)", "path_count_share": "paths (share of all)"}
NORMS = {
    "mean_path_norm": "mean over sampled paths",
    "rms_path_norm": "root mean square over all paths",
}
CURVES = {
    "signed_share": SHARES["signed_share"],
    "coherent_norm_share": SHARES["coherent_norm_share"],
    "sampled_veit_product_share": "paths × sampled mean norm (Veit)",
    "veit_product_share": "paths × root mean square norm",
}


def path_triptych(
    frame: pd.DataFrame,
    *,
    decades: float = 12.0,
    x_label: str = "path length (residual branches crossed)",
    ax: Axes | None = None,
) -> Figure:
    """Veit's three panels, the number of paths, the norm of one and their product, with the exact curves over it.

    The second panel is logarithmic and holds all states; the third is drawn for each state. Bands are the 95 %
    intervals of the frame for a single seed, and over seeds for several.

    Args:
        frame: Columns `quantity`, `path_length`, `value`, and `state`, `seed`, `low`, `high` where there are any, as
            `gs.path_spectrum` returns them: "path_count" or "path_count_share"; "mean_path_norm" and
            "rms_path_norm"; "sampled_veit_product_share", "veit_product_share", "coherent_norm_share" and
            "signed_share".
        decades: Norms this many powers of ten below the largest lie under the axis.
        x_label: With unit.
        ax: Axes to draw into, divided into panels; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, has no row of any panel, or no norms of single paths.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 6 a to c; the exact curves are this package's own.
    """
    who = "path_triptych"
    require(frame, ["quantity", "path_length", "value"], who)
    frame = frame.assign(state=frame.get("state", ""))
    count = next((name for name in COUNTS if (frame["quantity"] == name).any()), "path_count")
    drawn = [count, *NORMS, *CURVES]
    frame = frame[frame["quantity"].isin(drawn)]
    if frame.empty:
        raise ValueError(f"{who} draws the quantities {drawn}, but the frame has none of them.")
    if not frame["quantity"].isin(list(NORMS)).any():
        raise ValueError(
            f"{who} needs norms of single paths for its panel b, {' or '.join(NORMS)}, but the frame has none. Call "
            "path_spectrum with draws or sampled above 0."
        )
    kept, left_out = drawable(frame, ["path_length", "value"])
    summary = over_seeds(kept, ["state", "quantity", "path_length"], who).sort_values("path_length")
    states = levels(frame, "state")
    with house_style():
        figure, axes = canvas(ax, 2 + len(states), columns=1, height=2.1, share_x=True)
        _counts(axes[0], summary[summary["quantity"] == count], COUNTS[count])
        hidden = _norms(axes[1], summary[summary["quantity"].isin(list(NORMS))], states, decades)
        for axis, state in zip(axes[2:], states, strict=True):
            _products(axis, summary[summary["state"] == state])
            axis.set_title(f"c  product and exact split{f', {state}' if state else ''}")
        note = interval_note(summary[summary["quantity"] != count])
        axes[-1].set_xlabel(f"{x_label}\n{note}".rstrip())
        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note_left_out(axes[-1], left_out, len(frame))
        note_left_out(axes[-1], hidden, len(summary), "not positive, so not on the log axis of b")
        legend_below(figure, axes, ax)
    return figure


def _counts(axis: Axes, rows: pd.DataFrame, label: str) -> None:
    """The number of paths is the same in every state of one network: the largest is drawn where they differ."""
    counts = rows.groupby("path_length")["value"].max()
    axis.bar(counts.index, counts, color=PALE, edgecolor="#909090", linewidth=0.4, width=0.85)
    axis.yaxis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_ylabel(label)
    axis.set_title("a  how many")


def _norms(axis: Axes, rows: pd.DataFrame, states: list[object], decades: float) -> int:
    shown, hidden = drawable(rows, ["value"], positive=True)
    # Behind the marks of the third panel, so that no colour stands for two things.
    looks = dict(
        zip(states, list(marks([*CURVES, *range(len(states))]).values())[len(CURVES) :], strict=True)
    )
    for state, quantity in itertools.product(states, NORMS):
        some = shown[(shown["state"] == state) & (shown["quantity"] == quantity)]
        if some.empty:
            continue
        look, mean = looks[state], quantity == "mean_path_norm"
        label = ", ".join(part for part in (str(state), NORMS[quantity]) if part)
        axis.plot(
            some["path_length"],
            some["value"],
            color=look.colour,
            marker=look.marker,
            linestyle="-" if mean else (0, (5, 1.5)),
            markerfacecolor=look.colour if mean else "white",
            markersize=4,
            label=label,
        )
        _band(axis, some, look.colour, floor=0.0)
    top = float(shown["value"].max()) if len(shown) else 1.0
    least = float(shown["value"].min()) if len(shown) else 0.1
    axis.set_ylim(max(least / 3, top * 10.0**-decades), 3 * top)
    logarithmic(axis)
    axis.set_ylabel("norm (loss / input)")
    axis.set_title("b  one path")
    return hidden


def _products(axis: Axes, rows: pd.DataFrame) -> None:
    looks = marks(list(CURVES))
    for quantity, label in CURVES.items():
        some = rows[rows["quantity"] == quantity]
        if some.empty:
            continue
        look = looks[quantity]
        axis.plot(some["path_length"], some["value"], label=label, **look.line(markersize=4))
        _band(axis, some, look.colour)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_ylabel("share of the whole (1)")


def _band(axis: Axes, rows: pd.DataFrame, colour: str, floor: float = -np.inf) -> None:
    low, high, place = (rows[name].to_numpy(dtype=float) for name in ("low", "high", "path_length"))
    # Beneath zero a logarithmic axis has nothing: such a band reaches down to the axis.
    low = np.where(low > floor, low, np.nanmin(rows["value"]) * 1e-3) if floor == 0 else low
    axis.fill_between(place, low, high, color=colour, alpha=0.2, linewidth=0)
