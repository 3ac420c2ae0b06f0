"""What does each definition of a condition number say of one network, and which cannot be had?"""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, note_left_out, require
from .scales import logarithmic
from .style import BLACK, BLUE, GREY, house_style

LETTERS, INCHES = 68, 0.74
AT_LEAST = "arrow: a lower bound"
EDGE = "gradient descent is unstable above 2"


def condition_numbers(
    frame: pd.DataFrame,
    *,
    x_label: str = "condition number (ratio, dimensionless)",
    ax: Axes | None = None,
) -> Figure:
    """All condition numbers of one network under each other, each with what it is for.

    An arrow starts at a value that is only bounded from below. A definition that is undefined keeps its row, with the
    reason in it.

    Args:
        frame: As `condition_numbers` or `curvature_study` returns it: columns `definition`, `value`, and `low`, `high`,
            `status`, `reason`, `use` where there are any; one row for each definition. Of a frame of many quantities
            the rows of "condition_number" are drawn that are of no `block` and no `batch_size`.
        x_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, has no condition number, or several rows of one definition.
    """
    who = "condition_numbers"
    require(frame, ["definition", "value"], who)
    frame = _of_whole_network(frame, who)
    doubled = frame.loc[frame["definition"].duplicated(), "definition"].unique()
    if len(doubled):
        raise ValueError(
            f"{who} draws one network, but the frame has several rows of {list(doubled)}. Filter it to one condition."
        )
    frame = frame.assign(low=frame.get("low", np.nan), high=frame.get("high", np.nan))
    frame = frame.assign(status=frame.get("status", "ok"), reason=frame.get("reason", ""))
    frame = frame.assign(use=frame.get("use", ""))
    bounded = np.isinf(frame["value"]) & np.isfinite(frame["low"])
    frame = frame.assign(place=frame["value"].where(~bounded, frame["low"]))
    kept, left_out = drawable(frame, ["place"])
    positive = kept["place"] > 0
    with house_style():
        figure, (axis,) = canvas(ax, width=6.2, height=0.9 + INCHES * len(frame))
        for row in frame.index:
            if row in kept.index and positive[row]:
                _number(axis, row, frame.loc[row])
            _words(axis, row, frame.loc[row], drawn=row in kept.index and bool(positive[row]))
        axis.set_yticks(list(frame.index), [str(name).replace("_", " ") for name in frame["definition"]])
        axis.set_ylim(len(frame) - 0.5, -0.5)
        for row in frame.index[:-1]:
            axis.axhline(row + 0.5, color="#dddddd", linewidth=0.8)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.08)
        if np.isinf(frame["high"]).any() and bool(positive.any()):
            # Room for the arrows, which are as long everywhere.
            axis.set_xscale("log")
            left, right = axis.get_xlim()
            axis.set_xlim(left, right * (right / left) ** 0.12)
        if bool(positive.any()):
            logarithmic(axis, "x")
        else:
            axis.set_xticks([])
        axis.set_xlabel(x_label)
        axis.set_ylabel("definition (name)")
        note_left_out(axis, left_out, len(frame))
        note_left_out(axis, int((~positive).sum()), len(frame), "not positive, so not on a log axis")
        legend_below(figure, [axis], ax)
    return figure


def _of_whole_network(frame: pd.DataFrame, who: str) -> pd.DataFrame:
    kept = frame["definition"].notna()
    if "quantity" in frame.columns:
        kept &= frame["quantity"] == "condition_number"
    for part in ("block", "batch_size"):
        if part in frame.columns:
            kept &= frame[part].isna()
    if not kept.any():
        raise ValueError(
            f"{who} draws the condition numbers of a whole network, but no row of the frame is one: quantity "
            '"condition_number" with a definition, without block and batch_size. curvature_study and condition_numbers '
            "have such rows."
        )
    return frame[kept].reset_index(drop=True)


def _number(axis: Axes, row: int, values: pd.Series) -> None:
    """Dot and interval at the foot of the row; an arrow where nothing is above it."""
    place, height = float(values["place"]), row + 0.3
    low, high = float(values["low"]), float(values["high"])
    if low > 0 and np.isfinite(high):
        axis.plot([low, high], [height, height], color=BLUE, linewidth=4, alpha=0.35, solid_capstyle="butt")
    converged = values["status"] == "ok"
    axis.plot(
        place,
        height,
        "o",
        color=BLUE,
        markerfacecolor=BLUE if converged else "white",
        label="value, with its interval" if converged else "hollow: not converged",
    )
    if np.isinf(high):
        axis.annotate(
            "",
            (place, height),
            xytext=(34, 0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<|-", "color": BLUE, "shrinkA": 0, "shrinkB": 3},
        )
        axis.plot([], [], color=BLUE, marker=">", label=AT_LEAST)
    if values["definition"] == "learning_rate_product":
        axis.plot([2, 2], [row + 0.14, row + 0.46], color=BLACK, linestyle=(0, (1.2, 1.2)), label=EDGE)


def _words(axis: Axes, row: int, values: pd.Series, drawn: bool) -> None:
    """What the number is for, above it; in its place the reason where there is none."""
    texts = [(str(values["use"] or ""), -0.42, "top", GREY)]
    if not drawn:
        status = "not drawn" if values["status"] == "ok" else str(values["status"])
        reason = str(values["reason"] or f"the value is {values['value']:g}")
        texts.append((f"{status}: {reason}", 0.42, "bottom", BLACK))
    for text, height, side, colour in texts:
        axis.text(
            0.015,
            row + height,
            "\n".join(wrap(text, LETTERS, max_lines=2, placeholder=" ...")),
            transform=axis.get_yaxis_transform(),
            va=side,
            fontsize=8,
            color=colour,
        )
