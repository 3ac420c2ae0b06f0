"""How does the Hessian's conditioning change with depth?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require
from .hollow import points
from .panels import wrapped
from .scales import logarithmic
from .style import Mark, house_style, marks


def condition_against_depth(
    frame: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    *,
    hue: str = "network",
    panels: str | None = None,
    condition: str = "condition_number",
    extreme: str = "lambda_max",
    share: str = "share_negative",
    x_label: str = "layers (count)",
    ax: Axes | None = None,
) -> Figure:
    """Condition number, largest eigenvalue and share of negative ones against depth, closed forms over the points.

    Points of a network that has a law are not joined: the line through them is the law.

    Args:
        frame: Columns `hue`, `layers`, `quantity`, `value`, and `seed`, `low`, `high`, `status`,
            `definition`, `unit` where there are any. A point is hollow where a status is not "ok".
        theory: Columns `hue`, `layers`, `value`, `law`; `quantity` where it is not `condition`, and the column
            `panels` where a law is not that of every panel.
        hue: Condition told apart by colour, marker and dash.
        panels: Condition with a row of panels of its own, such as biases or the place of the ReLU; None for one.
        condition: Quantity of the first panel.
        extreme: Quantity of the second panel.
        share: Quantity of the third panel, on a linear axis. Quantities that the frame lacks have no panel.
        x_label: With unit.
        ax: Axes to draw into, divided when there are several panels; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, or has none of the three quantities.

    Source:
        Li et al. (2016), Demystifying ResNet, arXiv:1611.01186.
    """
    who = "condition_against_depth"
    require(frame, [hue, "layers", "quantity", "value", *([panels] if panels else [])], who)
    quantities = [q for q in (condition, extreme, share) if (frame["quantity"] == q).any()]
    if not quantities:
        raise ValueError(
            f"{who} draws {condition!r}, {extreme!r} and {share!r}, but the frame has "
            f"{sorted(frame['quantity'].astype(str).unique())}. Name others as condition=, extreme= and share=."
        )
    if theory is not None:
        require(theory, [hue, "layers", "value", "law"], f"{who} (theory)")
        theory = theory.assign(quantity=theory.get("quantity", condition))
    groups = levels(frame, panels) if panels else [None]
    looks = marks(levels(frame, hue))
    columns = len(quantities) if panels else 1
    with house_style():
        figure, axes = canvas(
            ax,
            len(groups) * len(quantities),
            columns=columns,
            width=5.4 if columns < 3 else 7.4,
            height=2.4,
            share_x=True,
        )
        for place, axis in enumerate(axes):
            group, quantity = groups[place // len(quantities)], quantities[place % len(quantities)]
            rows = frame[frame["quantity"] == quantity]
            lines = theory[theory["quantity"] == quantity] if theory is not None else None
            title, unit = _names(rows, quantity, condition, extreme)
            if panels:
                rows = rows[rows[panels] == group]
                if lines is not None and panels in lines.columns:
                    lines = lines[lines[panels] == group]
            positive = quantity != share
            kept, left_out = drawable(rows, ["layers", "value"], positive=positive)
            summary = over_seeds(kept, [hue, "layers"], who)
            for name, some in summary.groupby(hue, sort=False):
                law = lines is not None and bool((lines[hue] == name).any())
                points(axis, some, "layers", looks[name], str(name), connected=not law)
            if lines is not None:
                _curves(axis, lines, hue, looks, positive)
            if positive:
                logarithmic(axis)
            else:
                axis.set_ylim(-0.03, 1.03)
            # The quantity is the title of a panel, or beside it where the condition is the title.
            axis.set_title(wrapped(str(group), 26) if panels else title)
            axis.set_ylabel(_beside(title, unit) if panels else unit)
            last = place >= len(axes) - columns
            note = interval_note(summary) if place == len(axes) - columns and len(summary) else ""
            axis.set_xlabel(f"{x_label}\n{note}".rstrip() if last else "")
            why = "not finite or not positive" if positive else "not finite"
            note_left_out(axis, left_out, len(rows), why)
        legend_below(figure, axes, ax)
    return figure


def _curves(axis: Axes, theory: pd.DataFrame, hue: str, looks: dict[object, Mark], positive: bool) -> None:
    """Closed forms, dashed over the points of their level."""
    for (name, law), rows in theory.groupby([hue, "law"], sort=False):
        rows = drawable(rows, ["layers", "value"], positive=positive)[0].sort_values("layers")
        axis.plot(
            rows["layers"],
            rows["value"],
            color=looks[name].colour if name in looks else "black",
            linestyle=(0, (3, 2)),
            linewidth=1.2,
            label=f"theory, {name}: {law}",
            zorder=3,
        )


def _names(rows: pd.DataFrame, quantity: str, condition: str, extreme: str) -> tuple[str, str]:
    """Title and y label; the title carries the definition, for there is more than one condition number."""
    if quantity == extreme:
        return "largest eigenvalue", "loss per squared parameter"
    if quantity != condition:
        return "eigenvalues below zero", "share (dimensionless)"
    definitions = list(rows["definition"].dropna().unique()) if "definition" in rows.columns else []
    title = f"condition number: {definitions[0]}" if len(definitions) == 1 else "condition number"
    return title.replace("_", " "), "ratio (dimensionless)"


def _beside(title: str, unit: str) -> str:
    """Quantity and unit in two lines, for the y axis of a panel whose title is its condition."""
    name, colon, definition = title.partition(": ")
    short = f"({unit.partition(' (')[0]})"
    return f"{name},\n{definition} {short}" if colon else f"{name}\n{short}"
