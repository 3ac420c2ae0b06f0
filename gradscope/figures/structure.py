"""What does a network look like as a stream with branches? Its junctions in forward order, as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from .canvas import canvas
from .frames import require
from .style import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILION, house_style


class Look(NamedTuple):
    """Of one kind of junction: no two share their marker, their hatch or the line of their skip."""

    colour: str
    marker: str
    hatch: str
    skip: Any


KINDS = {
    "identity": Look(BLUE, "o", "", "-"),
    "projection": Look(VERMILION, "s", "////", (0, (6, 2))),
    "nonparam-skip": Look(GREEN, "^", "....", (0, (1.2, 1.2))),
    "gated": Look(PURPLE, "D", "xxxx", (0, (6, 1.5, 1.2, 1.5))),
    "concat": Look(BLACK, "P", "----", (0, (3, 1, 1, 1, 1, 1))),
    "branches": Look(GREY, "v", "++++", None),
}
OTHER = Look(GREY, "X", "oo", "-")
MOST_DRAWN = 3
LETTERS_PER_INCH = 15.0
LONGEST_NAME = 22
WIDTH = 7.2


@dataclass
class Place:
    """One junction in the picture: where it stands, where its skip and branches begin, what lies in a branch."""

    row: Any
    x: int
    begin: float
    has_inner: bool
    stage: bool


def structure(frame: pd.DataFrame, *, per_row: int | None = None, ax: Axes | None = None) -> Figure:
    """Draw the junctions of one network: the stream from left to right, branches below it, rows wrapped.

    Each junction is a mark whose shape and colour tell its kind. The line that comes to it along the stream is
    its skip (dashes tell the kind; `branches` have none), the curves below are its branches, with a hatched box
    for the residual function. Junctions inside a branch stand one lane lower, on the branch that holds them. A
    tinted ground and a label mark a stage, which begins where the shape of the stream changes.

    The frame says in which order sums are made, not where a skip begins, so it is drawn from the junction before
    on the same lane.

    Args:
        frame: Columns `junction`, `kind`, `level`, `shape`, `branches`, one row per junction in forward order, as
            `gs.junctions(model, x).frame()` gives; junctions themselves are taken too. Without rows, the
            picture says that there are no residual junctions.
        per_row: Junctions a row; None for 8 to 50, by how many there are.
        ax: Axes to draw into, divided into rows; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, or `per_row` is below 1.

    Example:
        >>> gs.figures.structure(gs.junctions(model, images).frame()).savefig("network.svg")
    """
    who = "structure"
    frame = frame if isinstance(frame, pd.DataFrame) or not hasattr(frame, "frame") else frame.frame()
    if not frame.empty:
        require(frame, ["junction", "kind", "level", "shape", "branches"], who)
    if per_row is not None and per_row < 1:
        raise ValueError(f"per_row is how many junctions stand in one row, at least 1, got {per_row}.")
    with house_style():
        if frame.empty:
            return _empty(ax)
        places = _places(frame)
        count = per_row or next((n for most, n in ((16, 8), (64, 14), (300, 25)) if len(places) <= most), 50)
        count = min(count, len(places))
        lanes = int(frame["level"].max())
        width = WIDTH if ax is None else _width(ax)
        # Turned names hang down into the room of their row.
        turned = 0.05 * max(map(len, map(_shortened, places))) if _is_turned(places, count, width) else 0.0
        height = 0.9 + 0.45 * lanes + turned
        figure, axes = canvas(ax, math.ceil(len(places) / count), columns=1, width=WIDTH, height=height)
        for number, axis in enumerate(axes):
            first = number * count
            axis.set_xlim(first - 1, first + count - 0.4)
            axis.set_ylim(-0.75 - 0.9 * lanes, 0.75)
            axis.set_yticks([])
            axis.grid(False)
            axis.tick_params(length=0)
            for side in axis.spines.values():
                side.set_visible(False)
            # Whatever reaches into this row is drawn whole and cut off at its ends, where the next row goes on.
            for place in places:
                if place.x >= first - 1 and place.begin <= first + count:
                    _draw(axis, place, small=count > 16)
            _stages(axis, places, first, count, width)
            _names(axis, places[first : first + count], count, width)
        _legend(figure, axes, places, ax)
    return figure


def _places(frame: pd.DataFrame) -> list[Place]:
    places: list[Place] = []
    # Of every lane that is open: where its latest junction stands, and where the lane begins.
    latest: dict[int, float] = {}
    begins: dict[int, float] = {}
    shape: str | None = None
    for x, row in enumerate(frame.to_dict("records")):
        level = int(row["level"])
        # Inner junctions come before the one in whose branch they lie.
        inner = [begins.pop(deeper) for deeper in sorted(begins) if deeper > level]
        latest = {lane: at for lane, at in latest.items() if lane <= level}
        begin = latest.get(level, min(inner, default=x - (0.7 if level else 0.9) + 0.15) - 0.15)
        latest[level] = x
        begins.setdefault(level, begin)
        stage = level == 0 and str(row["shape"]) != shape
        shape = str(row["shape"]) if level == 0 else shape
        places.append(Place(row, x, begin, bool(inner), stage))
    return places


def _draw(axis: Axes, place: Place, *, small: bool) -> None:
    look = KINDS.get(str(place.row["kind"]), OTHER)
    y, x, begin = -0.9 * int(place.row["level"]), place.x, place.begin
    if look.skip is not None:
        axis.plot([begin, x], [y, y], color=BLACK, linestyle=look.skip, linewidth=2.0, zorder=2)
    many = int(place.row["branches"])
    for branch in range(min(many, MOST_DRAWN)):
        holds = place.has_inner and branch == 0
        depth = 0.9 if holds else 0.5 - 0.17 * branch
        _curve(axis, begin, x, y, depth, look.colour)
        if not holds:
            wide = 0.34 * min(1.0, x - begin)
            box = Rectangle(
                ((begin + x - wide) / 2, y - depth - 0.06),
                wide,
                0.12,
                facecolor="white",
                edgecolor=look.colour,
                hatch=look.hatch,
                linewidth=0.9,
                zorder=3,
            )
            axis.add_patch(box)
    if many > MOST_DRAWN:
        axis.annotate(f"×{many}", ((begin + x) / 2, y - 0.6), ha="center", va="top", fontsize=7)
    axis.plot(
        [x],
        [y],
        marker=look.marker,
        color=look.colour,
        markersize=5 if small else 8,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=4,
        linestyle="none",
    )


def _curve(axis: Axes, begin: float, end: float, y: float, depth: float, colour: str) -> None:
    bend = min(0.3, (end - begin) / 3)
    points = [
        (begin, y),
        (begin, y - depth),
        (begin + bend, y - depth),
        (end - bend, y - depth),
        (end, y - depth),
        (end, y),
    ]
    codes = [Path.MOVETO, Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CURVE3, Path.CURVE3]
    axis.add_patch(
        PathPatch(Path(points, codes), fill=False, edgecolor=colour, linewidth=1.1, zorder=1, clip_on=True)
    )


def _stages(axis: Axes, places: list[Place], first: int, count: int, width: float) -> None:
    """Tint every other stage, and name the shape where a stage begins in this row."""
    starts = [place for place in places if place.stage]
    slot = width / (count + 0.6)
    free = -math.inf
    for number, place in enumerate(starts):
        begin = place.begin + 0.15 if number else -1.0
        end = starts[number + 1].begin + 0.15 if number + 1 < len(starts) else len(places) - 0.4
        left, right = max(begin, first - 1), min(end, first + count - 0.4)
        if left >= right:
            continue
        if number % 2:
            axis.axvspan(left, right, color="#ececec", linewidth=0, zorder=0)
        label = str(place.row["shape"])
        # A shape that would run into the one before is left out; the frame has it.
        if left >= free:
            axis.annotate(label, (left + 0.08, 0.7), fontsize=7, va="top", color="#404040")
            free = left + (len(label) + 2) / LETTERS_PER_INCH / slot


def _names(axis: Axes, places: list[Place], count: int, width: float) -> None:
    """Names below: all of them in short rows, turned where they are long; in long ones as many as fit."""
    slot, longest = width / (count + 0.6), _longest(places)
    turned = _is_turned(places, count, width)
    if longest > slot and not turned:
        outer = [place for place in places if place.row["level"] == 0] or places
        places = outer[:1]
        for place in outer:
            if (place.x - places[-1].x) * slot >= longest:
                places.append(place)
    axis.set_xticks(
        [place.x for place in places],
        [_shortened(place) for place in places],
        fontsize=7,
        rotation=25 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )


def _is_turned(places: list[Place], count: int, width: float) -> bool:
    return count <= 8 and _longest(places) > width / (count + 0.6)


def _longest(places: list[Place]) -> float:
    """Inches that the longest name takes."""
    return (max(len(_shortened(place)) for place in places) + 2) / LETTERS_PER_INCH


def _shortened(place: Place) -> str:
    name = str(place.row["junction"])
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"


def _width(axis: Axes) -> float:
    figure = axis.get_figure(root=True)
    return axis.get_position().width * figure.get_figwidth() if figure is not None else 1.0


def _legend(figure: Figure, axes: list[Axes], places: list[Place], given: Axes | None) -> None:
    handles: list[Line2D] = []
    for kind in dict.fromkeys(str(place.row["kind"]) for place in places):
        look = KINDS.get(kind, OTHER)
        handles.append(
            Line2D(
                [],
                [],
                color=BLACK,
                linestyle=look.skip or "none",
                linewidth=2.0,
                marker=look.marker,
                markerfacecolor=look.colour,
                markeredgecolor="white",
                markersize=8,
                label=kind if look.skip is not None else f"{kind} (no skip)",
            )
        )
    handles.append(Line2D([], [], color=GREY, linewidth=1.1, label="branch, below its skip"))
    if given is not None:
        axes[0].legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), fontsize=7, ncols=2)
        return
    columns = min(3, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(handles) / columns) + 0.1)


def _empty(ax: Axes | None) -> Figure:
    figure, (axis,) = canvas(ax, height=1.2)
    axis.set_axis_off()
    axis.text(0.5, 0.5, "no residual junctions", ha="center", va="center", transform=axis.transAxes)
    return figure
