"""How strong is each block's branch, and paths of which length does that make heavy?"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require, whiskers
from .scales import logarithmic
from .style import GREY, Mark, house_style, marks

Looks = dict[Hashable, Mark]
BETAS = {"gain": "gain of the branch", "batch norm": "ρ|γ|/σ of its batch norm"}
# By mixture: dash, face of the marks (None for the line's colour) and name.
MIXTURES = {
    "coherent": ("-", None, "solid: weights if paths add up"),
    "incoherent": ((0, (5, 1.5)), "white", "dashed, hollow: if paths are orthogonal"),
}


def effective_ensemble(
    frame: pd.DataFrame,
    *,
    theory: pd.DataFrame | None = None,
    x_label: str = "position of the block (index)",
    ax: Axes | None = None,
) -> Figure:
    """Gains and batch-norm scales along depth, and below them the weights of path lengths that they imply.

    Args:
        frame: As `gs.effective_ensemble` returns it, and columns `state` (a panel of path lengths for each) and
            `seed` (averaged over) where there are any. Quantities "implied_beta", "batch_norm_scale" with
            "batch_norm_scale_spread" (bars of one standard deviation over channels), "path_share".
        theory: Columns `path_length`, `value`, `law`, and `state` where the frame has it: thin dashed curves.
        x_label: Of the panels along depth, with unit.
        ax: Axes to draw into, divided into panels; None for a new figure.

    Raises:
        ValueError: The frame lacks a column or has no row of "implied_beta".

    Source:
        Littwin & Wolf (2016), arXiv:1611.02525, figure 1.
    """
    who = "effective_ensemble"
    columns = ["quantity", "form", "mixture", "index", "branch", "path_length", "value"]
    require(frame, columns, who)
    frame = frame.assign(state=frame.get("state", ""))
    betas = frame[frame["quantity"] == "implied_beta"]
    if betas.empty:
        raise ValueError(
            f"{who} draws the quantity 'implied_beta', but the frame has none. Do not filter it out."
        )
    states = levels(frame, "state")
    scaled = bool(frame.loc[frame["quantity"] == "batch_norm_scale", "value"].notna().any())
    with house_style():
        figure, axes = canvas(ax, 1 + scaled + len(states), columns=1, height=2.3)
        looks = marks([(state, form) for state in states for form in BETAS])
        note = _along_depth(axes[0], betas, looks, who)
        axes[0].set_ylabel("branch / skip (ratio)")
        axes[0].set_xlabel("" if scaled else f"{x_label}\n{note}".rstrip())
        if scaled:
            _scales(axes[1], frame, looks, who)
            axes[1].set_ylabel("batch-norm |γ| (1)")
            axes[1].set_xlabel(f"{x_label}\n{note}".rstrip())
        for axis, state in zip(axes[1 + scaled :], states, strict=True):
            _lengths(axis, frame[frame["state"] == state], looks, who)
            if theory is not None:
                require(theory, ["path_length", "value", "law"], f"{who} (theory)")
                some = theory if "state" not in theory.columns else theory[theory["state"] == state]
                for law in levels(some, "law"):
                    rows = some[some["law"] == law]
                    axis.plot(
                        rows["path_length"],
                        rows["value"],
                        color=GREY,
                        linestyle=(0, (3, 1)),
                        linewidth=1.1,
                        label=f"theory: {law}",
                    )
            axis.set_title(str(state))
            axis.set_ylabel("share (sums to 1)")
            axis.set_ylim(bottom=0)
        axes[-1].set_xlabel("path length (residual branches crossed)")
        undefined = frame[frame["quantity"].isin(["implied_beta", "path_share"]) & frame["value"].isna()]
        drawn = frame["quantity"].isin(["implied_beta", "path_share"]).sum()
        note_left_out(axes[-1], len(undefined), int(drawn), "undefined")
        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        legend_below(figure, axes, ax)
    return figure


def _along_depth(axis: Axes, betas: pd.DataFrame, looks: Looks, who: str) -> str:
    """Implied gains of every block; the second and further branches of one block are hollow."""
    kept, _ = drawable(betas, ["index", "value"])
    summary = over_seeds(kept, ["state", "form", "index", "branch"], who)
    for (state, form, branch), rows in summary.groupby(["state", "form", "branch"], sort=False):
        further: dict[str, Any] = {
            "label": f"{_label(state, form)}, further branches",
            "markerfacecolor": "white",
        }
        axis.errorbar(
            rows["index"],
            rows["value"],
            yerr=whiskers(rows),
            capsize=2,
            linewidth=0.9,
            **looks[(state, form)].line(markersize=4),
            **({"label": _label(state, form)} if branch == 0 else further),
        )
    values = summary["value"]
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        logarithmic(axis)
    else:
        axis.set_ylim(bottom=0)
    return interval_note(summary[summary["form"] == "gain"])


def _scales(axis: Axes, frame: pd.DataFrame, looks: Looks, who: str) -> None:
    """Mean over channels, with bars of one standard deviation."""
    keys = ["state", "index", "branch"]
    parts = {}
    for quantity in ("batch_norm_scale", "batch_norm_scale_spread"):
        kept, _ = drawable(frame[frame["quantity"] == quantity], ["index", "value"])
        parts[quantity] = over_seeds(kept, keys, who).set_index(keys)["value"]
    table = pd.DataFrame(parts).reset_index()
    for (state, _branch), rows in table.groupby(["state", "branch"], sort=False):
        axis.errorbar(
            rows["index"],
            rows["batch_norm_scale"],
            yerr=rows["batch_norm_scale_spread"].fillna(0.0),
            capsize=2,
            linewidth=0.9,
            **looks[(state, "batch norm")].line(markersize=4),
        )
    axis.set_title("bars: one standard deviation over channels", fontsize=9)


def _lengths(axis: Axes, frame: pd.DataFrame, looks: Looks, who: str) -> None:
    kept, _ = drawable(frame[frame["quantity"] == "path_share"], ["path_length", "value"])
    summary = over_seeds(kept, ["state", "form", "mixture", "path_length"], who)
    for (state, form, mixture), rows in summary.groupby(["state", "form", "mixture"], sort=False):
        dash, face, _ = MIXTURES[str(mixture)]
        colour, marker = looks[(state, form)].colour, looks[(state, form)].marker
        rows = rows.sort_values("path_length")
        axis.plot(
            rows["path_length"],
            rows["value"],
            color=colour,
            marker=marker,
            linestyle=dash,
            markerfacecolor=face or colour,
            markersize=4,
        )
        low, high = (rows[end].to_numpy(dtype=float) for end in ("low", "high"))
        lengths = rows["path_length"].to_numpy(dtype=float)
        axis.fill_between(lengths, np.maximum(low, 0), high, color=colour, alpha=0.2, linewidth=0)
    for dash, face, label in MIXTURES.values():
        axis.plot([], [], color=GREY, linestyle=dash, marker="o", markerfacecolor=face or GREY, label=label)


def _label(state: object, form: object) -> str:
    return ", ".join(part for part in (str(state), BETAS[str(form)]) if part)
