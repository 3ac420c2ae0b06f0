"""Which kind of block is missed when all of its kind are deleted together?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, label_y, legend_below
from .frames import drawable, interval_note, levels, note_left_out, only, over_seeds, require, whiskers
from .lesions import from_zero, label_of, metric_of, reference_lines
from .style import house_style, marks


def lesion_groups(
    frame: pd.DataFrame,
    *,
    quantity: str | None = None,
    x_label: str = "deleted together (name, blocks)",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Error after deleting groups of junctions, such as all of one kind, beside the intact error and chance.

    Args:
        frame: Columns `kind` ("group"), `junction` (the group's name), `deleted`, `value`, and `family`,
            `statistics`, `quantity`, `seed`, `low`, `high` where there are any: a whole frame of `lesion_study`.
        quantity: Which rows are drawn. None: `error` where there is one, or else the only metric.
        x_label: With unit.
        y_label: With unit; None: the quantity with that of its column `unit`.
        ax: Axes to draw into, divided when there are several families; None for a new figure.
    """
    who = "lesion_groups"
    require(frame, ["kind", "junction", "deleted", "value"], who)
    frame = frame.assign(
        statistics=frame.get("statistics", "as run"), family=frame.get("family", frame.get("network", ""))
    )
    quantity = quantity or metric_of(frame, who)
    points = only(frame, quantity, who)
    points = points[points["kind"] == "group"]
    if points.empty:
        raise ValueError(
            f"{who} draws rows of kind 'group', but the frame has none of {quantity}. Measure them with "
            "lesion_study(..., groups={'name': 'pattern'})."
        )
    kept, left_out = drawable(points, ["value"])
    summary = over_seeds(kept, ["family", "statistics", "junction", "deleted"], who)
    names = levels(points, "statistics")
    looks = marks(names)
    families = levels(points, "family")
    with house_style():
        figure, axes = canvas(ax, len(families), columns=1, height=2.4, share_y=True)
        for axis, family in zip(axes, families, strict=True):
            mine = summary[summary["family"] == family]
            groups = list(dict.fromkeys(zip(mine["junction"], mine["deleted"], strict=True)))
            places = {group: place for place, (group, _) in enumerate(groups)}
            for i, statistics in enumerate(names):
                rows = mine[mine["statistics"] == statistics]
                # Side by side, so that the two treatments' points do not cover each other.
                shift = 0.16 * (i - (len(names) - 1) / 2)
                axis.errorbar(
                    rows["junction"].map(places) + shift,
                    rows["value"],
                    yerr=whiskers(rows),
                    capsize=3,
                    label=str(statistics),
                    zorder=3,
                    **looks[statistics].line() | {"linestyle": ""},
                )
            axis.set_xticks(range(len(groups)), [f"{name} ({deleted})" for name, deleted in groups])
            axis.set_xlim(-0.5, max(len(groups), 1) - 0.5)
            reference_lines(axis, frame[frame["family"] == family], quantity)
            axis.set_title(str(family))
        from_zero(axes[0], kept["value"])
        note = interval_note(summary)
        axes[-1].set_xlabel(f"{x_label}\n{note}" if note else x_label)
        note_left_out(axes[-1], left_out, len(points))
        legend_below(figure, axes, ax)
        label_y(figure, axes, y_label or label_of(points, quantity), ax)
    return figure
