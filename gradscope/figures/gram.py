"""Which examples' gradients agree with which? The cosine matrix, ordered by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from .canvas import canvas, label_y
from .frames import drawable, levels, note_left_out, require, single_quantity
from .panels import SQUARE, wrapped
from .scales import plain_number
from .style import house_style

# Luminance rises steadily from -1 to 1, so that the picture says the same in grey.
COLOURS = "cividis"
MISSING = "xxxx"


def cosine_matrix(
    frame: pd.DataFrame | Any,
    *,
    order: str | Sequence[int] = "class",
    classes: Sequence[Any] | None = None,
    label: str = "cosine of two examples' gradients (dimensionless)",
    ax: Axes | None = None,
) -> Figure:
    """Cosines of every two examples' gradients as a heat map, a panel for each site, with lines between classes.

    Pairs without value are crossed out. The scale is that from -1 to 1, so that figures can be laid side by side.

    Args:
        frame: As `gradient_cosines` returns it: columns `i`, `j`, `value`, and `class`, `other_class`, `site` where
            there are any; or a square matrix of numbers.
        order: `class`, examples of one class behind each other (as they come where classes are unknown); `given`; or
            the positions in the order wanted, such as that of a clustering of the shallowest network, kept for all
            others.
        classes: Of a matrix, one for each example.
        label: Of the colour bar, with unit.
        ax: Axes to draw into, divided when there are several sites; None for a new figure.

    Raises:
        ValueError: A missing column, several matrices that the site does not tell apart, or an order of other examples.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure of the covariance of minibatches; there ordered by clusters.
    """
    who = "cosine_matrix"
    if not isinstance(frame, pd.DataFrame):
        frame = _tidy(np.asarray(frame, dtype=float), classes, who)
    require(frame, ["i", "j", "value"], who)
    single_quantity(frame, who)
    frame = frame.assign(site=frame.get("site", ""))
    if frame.duplicated(["site", "i", "j"]).any():
        raise ValueError(
            f"{who} draws one matrix for each site, but pairs come up several times. Filter the frame to one gradient, "
            "seed and source first."
        )
    sites = levels(frame, "site")
    left_out = drawable(frame, ["i", "j", "value"])[1]
    with house_style():
        # Several panels of a new figure have one colour bar beneath.
        together = ax is None and len(sites) > 1
        figure, axes = canvas(ax, len(sites), height=2.6 if len(sites) > 1 else 4.2)
        for axis, site in zip(axes, sites, strict=True):
            rows = frame[frame["site"] == site]
            table, names = _table(rows)
            places, by = _ordered(len(table), names, order, who)
            image = axis.imshow(
                np.ma.masked_invalid(table[np.ix_(places, places)]),
                cmap=COLOURS,
                vmin=-1,
                vmax=1,
                interpolation="nearest",
            )
            axis.patch.set(hatch=MISSING, edgecolor="black", facecolor="white", linewidth=0)
            axis.grid(visible=False)
            axis.set_title(wrapped(str(site), SQUARE))
            if by == "class" and names is not None:
                _boundaries(axis, [names[place] for place in places])
            told = f"example (ordered by {by})" if by else "example (position)"
            axis.set_xlabel(told if not together or axis in axes[-2:] else "")
            if not together:
                axis.set_ylabel(told)
                bar = axis.inset_axes((1.03, 0.0, 0.04, 1.0))
                bar.grid(visible=False)
                colours = axis.get_figure(root=True).colorbar(image, cax=bar)  # type: ignore[union-attr]
                colours.outline.set_visible(False)
                bar.yaxis.set_major_formatter(plain_number)
                bar.set_ylabel(label)
        if together:
            colours = figure.colorbar(image, ax=axes, location="bottom", shrink=0.7, aspect=40)
            colours.outline.set_visible(False)
            colours.set_label(label)
            label_y(figure, axes, told, ax)
        note_left_out(axes[-1], left_out, len(frame))
    return figure


def _tidy(matrix: NDArray[np.float64], classes: Sequence[Any] | None, who: str) -> pd.DataFrame:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"{who} draws a square matrix or a frame of pairs, got shape {list(matrix.shape)}.")
    i, j = (index.ravel() for index in np.indices(matrix.shape))
    frame = pd.DataFrame({"i": i, "j": j, "value": matrix.ravel()})
    if classes is None:
        return frame
    if len(classes) != len(matrix):
        raise ValueError(f"{who} was given {len(classes)} classes for {len(matrix)} examples.")
    named = np.asarray(classes)
    return frame.assign(**{"class": named[i], "other_class": named[j]})


def _table(rows: pd.DataFrame) -> tuple[NDArray[np.float64], list[Any] | None]:
    """Values by the two examples, NaN where there is no row, and the class of each example where known."""
    first, second = rows["i"].to_numpy(dtype=int), rows["j"].to_numpy(dtype=int)
    size = int(max(first.max(), second.max())) + 1
    table = np.full((size, size), np.nan)
    table[first, second] = rows["value"].to_numpy(dtype=float)
    if "class" not in rows.columns or rows["class"].isna().any():
        return table, None
    named = rows.drop_duplicates("i").set_index("i")["class"]
    return table, [named.get(place) for place in range(size)]


def _ordered(
    size: int, names: list[Any] | None, order: str | Sequence[int], who: str
) -> tuple[list[int], str]:
    """The examples in the order wanted, and what they are ordered by; "" as they come."""
    given = list(range(size))
    if isinstance(order, str):
        if order not in ("class", "given"):
            raise ValueError(f"{who}: order is 'class', 'given' or positions, got {order!r}.")
        if order == "given" or names is None:
            return given, ""
        # Python's sort is stable: within a class, examples stay as they come.
        return sorted(given, key=lambda place: names[place]), "class"
    if sorted(order) != given:
        raise ValueError(f"{who}: order names each of the {size} examples once, got {len(order)} positions.")
    return [int(place) for place in order], "the positions given"


def _boundaries(axis: Axes, names: Sequence[Any]) -> None:
    """Lines where the class changes, and its name in the middle of each run."""
    ends = [place for place in range(1, len(names)) if names[place] != names[place - 1]]
    # White in black is seen on the dark cells and on the light ones.
    outline = [withStroke(linewidth=2.0, foreground="black")]
    for end in ends:
        for draw in (axis.axhline, axis.axvline):
            draw(end - 0.5, color="white", linewidth=0.9, path_effects=outline)
    starts = [0, *ends]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, [*ends, len(names)], strict=True)]
    axis.set_xticks(middles, [str(names[start]) for start in starts])
    axis.set_yticks(middles, [str(names[start]) for start in starts])
