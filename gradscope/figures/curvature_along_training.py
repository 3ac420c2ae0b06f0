"""How does curvature change as a network learns, and does training stay below the edge of stability?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .canvas import canvas, legend_below
from .frames import drawable, levels, note_left_out, over_seeds, require
from .hollow import band, hollow, seeds_or_bounds
from .panels import wrapped
from .scales import logarithmic, plain_number
from .style import BLACK, Mark, house_style, marks


@dataclass(frozen=True)
class Panel:
    """How one quantity is named and drawn."""

    title: str
    unit: str = "ratio (dimensionless)"
    log: bool = True


EIGENVALUE = "eigenvalue\n(loss per squared parameter)"
PANELS = {
    "lambda_max": Panel("largest eigenvalue", EIGENVALUE),
    "lambda_min": Panel("smallest eigenvalue", EIGENVALUE, log=False),
    "learning_rate_product": Panel("learning rate × largest", "product (dimensionless)"),
    "negative_ratio": Panel("|smallest| / largest"),
    "percentile_10": Panel("largest / 10th percentile of |eigenvalues|"),
    "share_negative": Panel("eigenvalues below zero", "share (dimensionless)", log=False),
    "top_ratio": Panel("largest / fifth-largest"),
    "kappa_lower": Panel("|largest| / |smallest|, at least"),
    "extreme_ratio": Panel("|largest| / |smallest|"),
    "block_lambda_max": Panel("largest eigenvalue of a block", EIGENVALUE),
    "gradient_norm": Panel("norm of the gradient", "norm (loss per parameter)"),
    "loss": Panel("loss", "mean (loss per example)"),
}
DRAWN = tuple(PANELS)[:6]
EDGE = "edge of stability"
LIMIT = "stability_limit"
DOTTED: Any = (0, (1.2, 1.2))


def curvature_along_training(
    frame: pd.DataFrame,
    *,
    quantities: Sequence[str] | None = None,
    hue: str = "network",
    x: Literal["step", "loss"] = "step",
    x_label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Extreme eigenvalues, named condition numbers and learning rate times largest along training, a panel each.

    A dotted line marks where gradient descent on a quadratic loses its stability: in the panel of the product at the
    frame's `stability_limit`, or at 2 where it has none; in that of the largest eigenvalue at this limit over the
    learning rate, which is the product over the eigenvalue and so follows a schedule. Against the loss, a ring marks
    where training began.

    Args:
        frame: As `CurvatureObserver` returns it: columns `step`, `quantity`, `value`, and `definition` (of the rows of
            quantity "condition_number"), `hue`, `seed`, `low`, `high`, `status` where there are any.
        quantities: A panel each: names of `PANELS`, which are quantities, or definitions of condition numbers; None:
            those of the first six that the frame has.
        hue: Condition told apart by colour, marker and dash; left out for one network. "block", with
            quantities=["block_lambda_max"], draws a line for each block.
        x: "step", or "loss": the rows of quantity "loss" at the same step.
        x_label: With unit; None for the name of `x`.
        ax: Axes to draw into, divided when there are several panels; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, a panel's quantity, or the loss.

    Source:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability,
        arXiv:2103.00065; against the loss: Li et al. (2016), arXiv:1611.01186.
    """
    who = "curvature_along_training"
    require(frame, ["step", "quantity", "value"], who)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "measured"})
    named = frame["quantity"].where(
        frame["quantity"] != "condition_number", frame.get("definition", pd.Series(dtype=object))
    )
    frame = frame.assign(panel=named)
    names = _chosen(frame, quantities, x, who)
    told = frame[frame["panel"].isin([LIMIT, "lambda_max", "learning_rate_product"])]
    edges = over_seeds(drawable(told, ["step", "value"])[0], [hue, "panel", "step"], who)
    frame = frame[frame["panel"].isin([*names, *(["loss"] if x == "loss" else [])])]
    kept, left_out = drawable(frame, ["step", "value"])
    summary = over_seeds(kept, [hue, "panel", "step"], who).sort_values("step")
    hidden = 0
    looks = marks(levels(frame, hue))
    columns = 1 if len(names) < 3 else 2
    with house_style():
        figure, axes = canvas(ax, len(names), columns=columns, width=6.2, height=2.5)
        for axis, name in zip(axes, names, strict=True):
            panel = PANELS[name]
            rows, gone = drawable(summary[summary["panel"] == name], ["value"], positive=panel.log)
            hidden += gone
            for level, some in rows.groupby(hue, sort=False):
                hidden += _line(axis, some, summary[summary[hue] == level], x, looks[level], level, panel.log)
            _edges(axis, name, edges, hue, looks, x)
            if panel.log:
                logarithmic(axis)
            elif name == "share_negative":
                axis.set_ylim(-0.03, 1.03)
            if x == "loss":
                logarithmic(axis, "x")
            else:
                axis.xaxis.set_major_formatter(plain_number)
            axis.set_title(wrapped(panel.title, 60 if columns == 1 else 30))
            axis.set_ylabel(panel.unit)
        foot = x_label or ("loss (per example)" if x == "loss" else "step of training (number)")
        for axis in axes[-columns:]:
            axis.set_xlabel(foot)
        first = axes[(len(axes) - 1) // columns * columns]
        note = seeds_or_bounds(summary)
        if x == "loss":
            mean = note.partition(", 95")[0] if note.startswith("mean") else ""
            note = "; ".join(part for part in (mean, "ring: the first step") if part)
        first.set_xlabel(f"{foot}\n{note}".rstrip())
        note_left_out(first, left_out, len(frame))
        note_left_out(first, hidden, len(summary), "not positive, so not on a log axis")
        legend_below(figure, axes, ax)
    return figure


def _chosen(frame: pd.DataFrame, quantities: Sequence[str] | None, x: str, who: str) -> list[str]:
    """The panels to draw; refuses names that are not known, not there, or of one that goes along x."""
    there = set(frame["panel"].dropna())
    names = list(quantities) if quantities is not None else [name for name in DRAWN if name in there]
    missing = [name for name in names if name not in there or name not in PANELS]
    if not names or missing:
        raise ValueError(
            f"{who} draws {missing or list(DRAWN)}, but the frame has {sorted(map(str, there))}. "
            f"Name as quantities= what it has of {list(PANELS)}."
        )
    if x not in ("step", "loss") or (x == "loss" and "loss" not in there):
        raise ValueError(
            f'{who} draws against x="step" or x="loss", got {x!r}; the second needs rows of quantity "loss", '
            f"and the frame has {sorted(map(str, there))}."
        )
    return names


def _line(
    axis: Axes, rows: pd.DataFrame, level_rows: pd.DataFrame, x: str, look: Mark, level: object, log: bool
) -> int:
    """A level's line and band; how many of its points have no place along x."""
    gone = 0
    if x == "loss":
        losses = level_rows[level_rows["panel"] == "loss"].set_index("step")["value"]
        rows = rows.assign(loss=rows["step"].map(losses[losses > 0]))
        gone = int(rows["loss"].isna().sum())
        rows = rows.dropna(subset=["loss"])
    if rows.empty:
        return gone
    every = max(1, len(rows) // 15)
    axis.plot(rows[x], rows["value"], label=str(level), **look.line(markersize=4, markevery=every))
    if x == "step":
        band(axis, rows, rows[x].to_numpy(dtype=float), look, log)
    else:
        axis.plot(
            rows[x].iloc[:1],
            rows["value"].iloc[:1],
            "o",
            markersize=10,
            markerfacecolor="none",
            color=look.colour,
        )
    hollow(axis, rows[~rows["complete"]], x, look)
    return gone


def _edges(axis: Axes, name: str, told: pd.DataFrame, hue: str, looks: dict[object, Mark], x: str) -> None:
    """The line that the largest eigenvalue cannot pass for long: black where it is the same for all levels."""
    wide = told.pivot_table(index=[hue, "step"], columns="panel", values="value").reset_index()
    wide = wide.reindex(columns=[hue, "step", LIMIT, "lambda_max", "learning_rate_product"])
    edge = wide[LIMIT].fillna(2.0)
    if name == "lambda_max":
        product = wide["learning_rate_product"]
        edge = edge * (wide["lambda_max"] / product).where((wide["lambda_max"] > 0) & (product > 0))
    elif name != "learning_rate_product":
        return
    wide = wide.assign(edge=edge).dropna(subset=["edge"])
    common = _constant(wide["edge"])
    look: dict[str, Any] = {"linestyle": DOTTED, "linewidth": 1.2}
    for level, rows in wide.groupby(hue, sort=False):
        colour = BLACK if common else looks[level].colour
        if _constant(rows["edge"]):
            axis.axhline(float(rows["edge"].iloc[0]), color=colour, **look)
        elif x == "step":
            axis.plot(rows["step"], rows["edge"], color=colour, **look)
    if len(wide):
        at = {_short(limit) for limit in wide[LIMIT].fillna(2.0)}
        axis.plot(
            [], [], color=BLACK, label=f"{EDGE}: learning rate × largest = {', '.join(sorted(at))}", **look
        )


def _constant(values: pd.Series) -> bool:
    return len(values) > 0 and bool(np.allclose(values, values.iloc[0], rtol=1e-3))


def _short(value: float) -> str:
    return plain_number(float(f"{value:.3g}"))
