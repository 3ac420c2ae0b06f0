"""How does the Hessian's conditioning change with depth?"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require, whiskers
from .scales import logarithmic
from .style import house_style, marks


def condition_against_depth(
    frame: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    *,
    hue: str = "network",
    condition: str = "condition_number",
    extreme: str = "lambda_max",
    x_label: str = "layers (count)",
    ax: Axes | None = None,
) -> Figure:
    """Condition number and largest eigenvalue against depth, closed forms over the points.

    Args:
        frame: Columns `hue`, `layers`, `quantity`, `value`, and `seed`, `low`, `high`, `status`,
            `definition`, `unit` where there are any. A point is hollow where a status is not "ok".
        theory: Columns `hue`, `layers`, `value`, `law`, and `quantity` where it is not `condition`.
        hue: Condition told apart by colour, marker and dash.
        condition: Quantity of the upper panel.
        extreme: Quantity of the lower panel, which is left out when the frame has no such row.
        x_label: With unit.
        ax: Axes to draw into, divided when both quantities are there; None for a new figure.

    Source:
        Li et al. (2016), Demystifying ResNet, arXiv:1611.01186.
    """
    who = "condition_against_depth"
    require(frame, [hue, "layers", "quantity", "value"], who)
    quantities = [q for q in (condition, extreme) if (frame["quantity"] == q).any()]
    if not quantities:
        raise ValueError(
            f"{who} draws {condition!r} and {extreme!r}, but the frame has "
            f"{sorted(frame['quantity'].astype(str).unique())}. Name others as condition= and extreme=."
        )
    looks = marks(levels(frame, hue))
    with house_style():
        figure, axes = canvas(ax, len(quantities), columns=1, height=2.5, share_x=True)
        for axis, quantity in zip(axes, quantities, strict=True):
            rows = frame[frame["quantity"] == quantity]
            kept, left_out = drawable(rows, ["layers", "value"], positive=True)
            summary = over_seeds(kept, [hue, "layers"], who)
            for name, some in summary.groupby(hue, sort=False):
                _points(axis, some.sort_values("layers"), looks[name], str(name))
            if theory is not None:
                _curves(axis, theory, hue, quantity, condition, looks)
            logarithmic(axis)
            axis.set_xlabel(x_label if axis is axes[-1] else "")
            title, label = _names(rows, quantity, condition)
            axis.set_title(title)
            axis.set_ylabel(label)
            if axis is axes[-1] and len(summary) and interval_note(summary):
                axis.set_xlabel(f"{x_label}\n{interval_note(summary)}")
            note_left_out(axis, left_out, len(rows), "not finite or not positive")
        legend_below(figure, axes, ax)
    return figure


def _points(axis: Axes, rows: pd.DataFrame, look: Any, label: str) -> None:
    """A line with whiskers; points whose number is not to be trusted are hollow."""
    axis.errorbar(rows["layers"], rows["value"], yerr=whiskers(rows), label=label, capsize=2.5, **look.line())
    doubtful = rows[~rows["complete"]]
    if len(doubtful):
        axis.plot(
            doubtful["layers"],
            doubtful["value"],
            look.marker,
            color=look.colour,
            markerfacecolor="white",
            label="hollow: not converged or undefined for some seed",
            zorder=4,
        )


def _curves(axis: Axes, theory: pd.DataFrame, hue: str, quantity: str, condition: str, looks: dict) -> None:
    require(theory, [hue, "layers", "value", "law"], "condition_against_depth (theory)")
    meant = theory["quantity"] if "quantity" in theory.columns else pd.Series(condition, index=theory.index)
    for (name, law), rows in theory[meant == quantity].groupby([hue, "law"], sort=False):
        rows = drawable(rows, ["layers", "value"], positive=True)[0].sort_values("layers")
        colour = looks[name].colour if name in looks else "black"
        axis.plot(
            rows["layers"],
            rows["value"],
            color=colour,
            linestyle=(0, (3, 2)),
            linewidth=0.9,
            label=f"theory, {name}: {law}",
        )


def _names(rows: pd.DataFrame, quantity: str, condition: str) -> tuple[str, str]:
    """Title and y label; the title carries the definition, for there is more than one condition number."""
    if quantity != condition:
        return "largest eigenvalue", "loss per squared parameter"
    definitions = list(rows["definition"].dropna().unique()) if "definition" in rows.columns else []
    title = f"condition number: {definitions[0]}" if len(definitions) == 1 else "condition number"
    return title, "ratio (dimensionless)"
