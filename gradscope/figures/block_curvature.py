"""In which blocks of a network does curvature sit, and which blocks does it couple?"""

from __future__ import annotations

from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require
from .heat import ticks_at
from .shaded_cells import shade_bar, shaded_cells
from .style import house_style

TABLE = {
    "lambda_max": "largest\neigenvalue",
    "lambda_min": "smallest\neigenvalue",
    "trace": "trace",
    "gradient_norm": "gradient\nnorm",
    "participation_ratio": "participation\nratio",
    "kappa_lower": "condition\nat least",
}
COUPLING, NO_OTHER = "coupling", ""
EIGENVALUE = "loss per squared parameter"
UNITS = {
    "gradient_norm": "loss per parameter",
    "participation_ratio": "dimensionless",
    "kappa_lower": "dimensionless",
}
MOST_NUMBERED = 20
# A zero whose interval ends above this share of the column's largest is an estimate that was clipped.
ROUNDING = 1e-4
# Of all names along the x axis, side by side; where there are more, the y axis has them.
MOST_LETTERS = 60


def block_curvature(frame: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Curvature of each block as a table, and under it the coupling of each pair of blocks as a matrix.

    The table is shaded by the size of a value beside the largest of its column. The matrix is shaded on a log scale by
    the norm of the Hessian's block between two blocks; on its diagonal, where the frame has no coupling of a block
    with itself, stands the norm of the block's own Hessian, the larger of |largest| and |smallest eigenvalue|. An exact
    zero is white with a 0 in it, however small its neighbours are; what is undefined is crossed out; what has no row
    is blank grey; what has not converged has a ring in its corner.

    Args:
        frame: As `block_curvature`, or `curvature_study` with `by`, returns it: columns `block`, `quantity`, `value`;
            `other` in rows of quantity "coupling", once for a pair or both ways; `high`, `status`, `by` and `seed`
            (averaged over) where there are any. Rows without a block, of the whole network, are passed over.
        ax: Axes to draw into, divided when there are rows of both kinds; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, has no row of a block or none of the quantities, or mixes several ways to
            divide the network.

    Source:
        The Hessian of pairs of layers at the zero point: Li et al. (2016), arXiv:1611.01186; spectra by block: Zhang
        et al. (2024), arXiv:2402.16788.
    """
    who = "block_curvature"
    require(frame, ["block", "quantity", "value"], who)
    frame = frame[frame["block"].notna()]
    if frame.empty:
        raise ValueError(
            f"{who} draws the blocks of a network, but no row of the frame has a block. Measure them: "
            "block_curvature(problem, by), or curvature_study(problem, by=...)."
        )
    if "by" in frame.columns and frame["by"].nunique() > 1:
        raise ValueError(
            f"{who} draws one division of the network, but the frame has {list(frame['by'].unique())}. "
            "Filter it first: frame[frame['by'] == ...]."
        )
    other = frame.get("other", pd.Series(index=frame.index, dtype=object))
    frame = frame.assign(other=other.astype(object).where(other.notna(), NO_OTHER))
    frame = frame[frame["quantity"].isin([*TABLE, COUPLING])]
    quantities = [quantity for quantity in TABLE if (frame["quantity"] == quantity).any()]
    coupled = bool((frame["quantity"] == COUPLING).any())
    if not quantities and not coupled:
        raise ValueError(f"{who} draws the quantities {[*TABLE, COUPLING]}, but the frame has none of them.")
    kept, left_out = drawable(frame, ["value"])
    summary = over_seeds(kept, ["quantity", "block", "other"], who)
    # A row for every cell that was asked for, without value where it is undefined.
    unconverged = frame["status"] == "unconverged" if "status" in frame.columns else False
    cells = frame.assign(unconverged=unconverged).groupby(["quantity", "block", "other"], sort=False)
    asked = cells["unconverged"].any().reset_index().merge(summary, how="left")
    others = [name for name in levels(frame, "other") if name != NO_OTHER]
    blocks = list(dict.fromkeys([*levels(frame, "block"), *others]))
    with house_style():
        height = float(np.clip(0.24 * len(blocks) + 1.3, 2.7, 6.4))
        width = 5.3 + 0.07 * min(_longest(blocks), 40)
        figure, axes = canvas(ax, bool(quantities) + coupled, columns=1, width=width, height=height)
        if quantities:
            _table(axes[0], asked, blocks, quantities)
        if coupled:
            _matrix(axes[-1], asked, blocks)
        for axis in axes:
            axis.set_ylabel("block (name)")
        note = interval_note(summary).partition(",")[0] if len(summary) and summary["n"].max() > 1 else ""
        axes[-1].set_xlabel("\n".join(part for part in (axes[-1].get_xlabel(), note) if part))
        note_left_out(axes[-1], left_out, len(frame))
        legend_below(figure, axes, ax)
    return figure


class Cells(NamedTuple):
    """A table by block and `other`, each [rows, columns].

    Attributes:
        values: NaN where undefined or not asked for.
        measured: Whether it was asked for.
        unconverged: Whether it is not settled.
        high: Upper end of its interval, NaN where there is none.
    """

    values: NDArray[np.float64]
    measured: NDArray[np.bool_]
    unconverged: NDArray[np.bool_]
    high: NDArray[np.float64]

    def exact(self, largest: NDArray[np.float64] | float) -> NDArray[np.bool_]:
        """Whether a 0 would be one, and not what is left of an interval that reaches beyond it."""
        return ~self.unconverged & ~(self.high > ROUNDING * np.asarray(largest))


def _table(axis: Axes, asked: pd.DataFrame, blocks: list[Any], quantities: list[str]) -> None:
    cells = _places(asked.assign(other=asked["quantity"]), blocks, quantities)
    sizes = np.abs(np.nan_to_num(cells.values))
    largest = sizes.max(axis=0, initial=0.0)
    shades = sizes / np.where(largest > 0, largest, 1.0)
    shaded_cells(
        axis,
        cells.values,
        shades,
        cells.measured,
        exact=cells.exact(largest),
        unconverged=cells.unconverged,
        numbers=len(blocks) <= MOST_NUMBERED,
    )
    if largest.any():
        shade_bar(axis, Normalize(0, 1), "share of the column's largest")
    axis.set_xticks(range(len(quantities)), [TABLE[name] for name in quantities], fontsize=8)
    ticks_at(axis, blocks, "y", most=24)
    axis.set_title("each block alone")
    axis.set_xlabel(fill(_units(quantities), 84), fontsize=8)


def _units(quantities: list[str]) -> str:
    """The columns by unit, for they do not share one."""
    units: dict[str, list[str]] = {}
    for quantity in quantities:
        units.setdefault(UNITS.get(quantity, EIGENVALUE), []).append(TABLE[quantity].replace("\n", " "))
    return "; ".join(f"{', '.join(names)} ({unit})" for unit, names in units.items())


def _matrix(axis: Axes, asked: pd.DataFrame, blocks: list[Any]) -> None:
    below = _places(asked[asked["quantity"] == COUPLING], blocks, blocks)
    # A pair may stand once, either way round.
    cells = Cells(*(np.where(below.measured, one, one.T) for one in below))
    ends = [
        _places(asked[asked["quantity"] == name].assign(other=name), blocks, [name])
        for name in ("lambda_max", "lambda_min")
    ]
    alone = np.hstack([end.measured for end in ends]).all(axis=1) & ~np.diagonal(cells.measured)
    place = np.flatnonzero(alone)
    # The norm of a symmetric matrix takes both of its ends.
    cells.values[place, place] = np.abs(np.hstack([end.values for end in ends])).max(axis=1)[place]
    either = ends[0].unconverged[:, 0] | ends[1].unconverged[:, 0]
    cells.unconverged[place, place] = either[place]
    cells.measured[place, place] = True
    drawn = np.isfinite(cells.values) & (cells.values > 0)
    positive = cells.values[drawn]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    norm = LogNorm(low, high) if high > low else LogNorm(low / 3, 3 * low)
    shades = norm(np.where(drawn, cells.values, low)).filled(0.0)
    exact = cells.exact(high if len(positive) else 0.0)
    shaded_cells(axis, cells.values, shades, cells.measured, exact=exact, unconverged=cells.unconverged)
    if len(positive):
        shade_bar(axis, norm, "norm (loss per squared parameter)")
    ticks_at(axis, blocks, "y", most=24)
    side_by_side = len(blocks) * _longest(blocks) <= MOST_LETTERS
    ticks_at(axis, blocks if side_by_side else [""] * len(blocks), "x", most=24)
    axis.set_title("coupling of two blocks" + (", diagonal: a block alone" if len(place) else ""))
    axis.set_xlabel(f"block ({'name' if side_by_side else 'in the same order'})")


def _longest(blocks: list[Any]) -> int:
    return max((len(str(block)) for block in blocks), default=0)


def _places(cells: pd.DataFrame, rows: list[Any], columns: list[Any]) -> Cells:
    row, column = ({name: i for i, name in enumerate(names)} for names in (rows, columns))
    shape = len(rows), len(columns)
    found = Cells(
        np.full(shape, np.nan), np.zeros(shape, bool), np.zeros(shape, bool), np.full(shape, np.nan)
    )
    for cell in cells.to_dict("records"):
        if cell["block"] in row and cell["other"] in column:
            place = row[cell["block"]], column[cell["other"]]
            found.values[place], found.high[place] = cell["value"], cell["high"]
            found.measured[place], found.unconverged[place] = True, cell["unconverged"]
    return found
