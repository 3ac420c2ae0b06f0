"""What does each residual block do to the stream: how far, in which direction, to what answer?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require, whiskers
from .style import GREY, Mark, house_style, marks

NAMES = {
    "branch_norm": "branch norm",
    "stream_norm": "stream norm",
    "l2_ratio": "branch / stream norm",
    "block_influence": "block influence",
    "cosine_with_loss_gradient": "cosine with loss gradient",
    "first_order_lesion": "first-order lesion",
    "lesion_loss_change": "lesion",
    "first_order_ratio": "first order / measured",
    "early_exit_accuracy": "early-exit accuracy",
    "lens_loss": "lens loss",
    "lens_kl_to_output": "lens, KL to output",
    "lens_agreement": "lens agreement",
    "estimation_error_mean": "estimation error, mean",
    "estimation_error_spread": "estimation error, spread",
    "estimation_error_rms": "estimation error, rms",
}
USUAL = ("cosine_with_loss_gradient", "l2_ratio", "block_influence")
# Lines that mean something: no direction, prediction and measurement alike.
MEANING = {"cosine_with_loss_gradient": 0.0, "first_order_ratio": 1.0, "lesion_loss_change": 0.0}


def refinement(
    frame: pd.DataFrame,
    *,
    quantities: Sequence[str] = USUAL,
    x_label: str = "block (index of the junction)",
    ax: Axes | None = None,
) -> Figure:
    """Quantities of `refinement_study` against the block, a panel each, the stages set apart.

    Args:
        frame: Columns `quantity`, `unit`, `index`, `kind`, `value`, and `stage`, `family` (or `network`), `seed`,
            `low`, `high` where there are any. Lines break between stages; blocks that change the shape are hollow.
        quantities: Which, in the order of the panels. For how the answer comes about:
            ("early_exit_accuracy", "lens_loss") or ("lens_agreement", "lens_kl_to_output").
        x_label: With unit.
        ax: Axes to draw into, divided when there are several panels; None for a new figure.

    Raises:
        ValueError: A quantity that the frame does not have.

    Source:
        Jastrzebski et al. (2018), arXiv:1710.04773, figures 2 and 3.
    """
    who = "refinement"
    require(frame, ["quantity", "unit", "index", "kind", "value"], who)
    missing = sorted(set(quantities) - set(frame["quantity"]))
    if missing or not quantities:
        raise ValueError(
            f"{who} was asked to draw {missing or 'no quantity'}, but the frame has "
            f"{sorted(frame['quantity'].astype(str).unique())}. Name some of these as quantities=."
        )
    points = frame[frame["quantity"].isin(list(quantities))]
    points = points.assign(
        family=points.get("family", points.get("network", "")), stage=points.get("stage", 0)
    )
    kept, left_out = drawable(points, ["index", "value"])
    summary = over_seeds(kept, ["quantity", "family", "stage", "index", "kind"], who)
    looks = marks(levels(points, "family"))
    with house_style():
        figure, axes = canvas(ax, len(quantities), columns=1, height=1.9, share_x=True)
        for axis, quantity in zip(axes, quantities, strict=True):
            rows = summary[summary["quantity"] == quantity]
            for (family, _), run in rows.groupby(["family", "stage"], sort=False):
                _draw_run(axis, run, looks[family], str(family))
            if quantity in MEANING:
                axis.axhline(MEANING[quantity], color=GREY, linewidth=0.8, zorder=1)
            unit = points[points["quantity"] == quantity]["unit"].iloc[0]
            axis.set_title(NAMES.get(quantity, quantity))
            axis.set_ylabel(f"({unit})")
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
            _separate(axis, points)
        note = interval_note(summary)
        axes[-1].set_xlabel(f"{x_label}\n{note}" if note else x_label)
        note_left_out(axes[-1], left_out, len(points))
        legend_below(figure, axes, ax)
    return figure


def _draw_run(axis: Axes, rows: pd.DataFrame, look: Mark, name: str) -> None:
    """Points of one stage, joined; those of blocks that change the shape are hollow."""
    rows = rows.sort_values("index")
    axis.plot(rows["index"], rows["value"], color=look.colour, linestyle=look.dash, linewidth=1.0)
    hollow = rows["kind"].isin(["projection", "nonparam-skip"])
    parts = ((rows[~hollow], look.colour, ""), (rows[hollow], "white", "block changes the shape"))
    for some, face, suffix in parts:
        if some.empty:
            continue
        axis.errorbar(
            some["index"],
            some["value"],
            yerr=whiskers(some),
            fmt=look.marker,
            color=look.colour,
            markerfacecolor=face,
            capsize=2,
            label=", ".join(part for part in (name, suffix) if part) or None,
            zorder=3,
        )


def _separate(axis: Axes, frame: pd.DataFrame) -> None:
    """A dotted line before the first block of every stage but the first; only where all families agree."""
    blocks = frame[frame["index"] >= 0]
    starts = blocks.groupby(["family", "stage"])["index"].min().to_numpy(dtype=float)
    for start in np.unique(starts)[1:]:
        if int((starts == start).sum()) == blocks["family"].nunique():
            axis.axvline(start - 0.5, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
