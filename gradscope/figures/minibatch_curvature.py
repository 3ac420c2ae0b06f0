"""How far are the extreme eigenvalues of a minibatch from those of all the data?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .canvas import canvas, legend_below
from .frames import drawable, interval_note, levels, note_left_out, over_seeds, require
from .hollow import hollow
from .scales import plain_number
from .style import BLACK, Mark, house_style, marks

TITLES = {"lambda_max": "largest eigenvalue", "lambda_min": "smallest eigenvalue"}
# Of the horizontal axis, in factors of 2: half the width of a box, and of the spread of its points.
HALF_BOX, HALF_SPREAD = 0.3, 0.14


def minibatch_curvature(
    frame: pd.DataFrame,
    *,
    hue: str = "network",
    x_label: str = "batch size (examples)",
    y_label: str = "eigenvalue\n(loss per squared parameter)",
    ax: Axes | None = None,
) -> Figure:
    """Extreme eigenvalues of random batches by batch size, beside those of all examples.

    A point is a batch, a box the middle half of the batches with their median. Along the top stands the mean over
    batches divided by the value of all examples: how much a minibatch exaggerates.

    Args:
        frame: As `minibatch_curvature` returns it: columns `batch_size`, `draw` (NaN for all examples), `quantity`
            ("lambda_max", "lambda_min", and their "_ratio", which else is taken from the others), `value`, and `hue`,
            `seed`, `status` where there are any.
        hue: Condition told apart by colour and marker, boxes side by side; left out for one network.
        x_label: With unit.
        y_label: With unit.
        ax: Axes to draw into, divided when there are both ends; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, or has neither quantity.

    Source:
        The largest eigenvalue is convex, so that of a mean of Hessians is below the mean of theirs (Jensen).
    """
    who = "minibatch_curvature"
    require(frame, ["batch_size", "draw", "quantity", "value"], who)
    frame = frame.reset_index(drop=True)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "measured"})
    quantities = [quantity for quantity in TITLES if (frame["quantity"] == quantity).any()]
    if not quantities:
        raise ValueError(
            f"{who} draws the quantities {list(TITLES)}, but the frame has "
            f"{sorted(frame['quantity'].astype(str).unique())}."
        )
    given = frame[frame["quantity"].isin([f"{quantity}_ratio" for quantity in quantities])]
    frame = frame[frame["quantity"].isin(quantities)]
    kept, left_out = drawable(frame, ["batch_size", "value"])
    # Refuses conditions that are mixed; its means are those of all examples.
    summary = over_seeds(kept, [hue, "quantity", "batch_size", "draw"], who)
    looks = marks(levels(frame, hue))
    with house_style():
        figure, axes = canvas(ax, len(quantities), columns=1, height=2.7, share_x=True)
        for axis, quantity in zip(axes, quantities, strict=True):
            rows = kept[kept["quantity"] == quantity]
            whole = summary[(summary["quantity"] == quantity) & summary["draw"].isna()]
            for lane, (level, look) in enumerate(looks.items()):
                offset = (lane - (len(looks) - 1) / 2) / len(looks)
                some = rows[rows[hue] == level]
                prefix = f"{level}: " if len(looks) > 1 else ""
                _batches(axis, some[some["draw"].notna()], look, prefix, offset, len(looks))
                _whole(axis, whole[whole[hue] == level], look if len(looks) > 1 else None, prefix)
                known = given[(given[hue] == level) & (given["quantity"] == f"{quantity}_ratio")]
                ratios = known if len(given) else _ratios(some)
                _written(axis, ratios, look, lane, len(looks))
            axis.margins(y=0.12)
            bottom, top = axis.get_ylim()
            axis.set_ylim(bottom, top + 0.09 * len(looks) * (top - bottom))
            _sizes(axis, frame)
            axis.set_title(TITLES[quantity])
            axis.set_ylabel(y_label)
        whole = summary[summary["draw"].isna()]
        note = interval_note(whole) if len(whole) and whole["n"].max() > 1 else ""
        foot = "numbers: mean over batches / all examples" + (f"\nlines: {note}" if note else "")
        axes[-1].set_xlabel(f"{x_label}\n{foot}")
        note_left_out(axes[-1], left_out, len(frame))
        legend_below(figure, axes, ax)
    return figure


def _batches(axis: Axes, rows: pd.DataFrame, look: Mark, prefix: str, offset: float, lanes: int) -> None:
    """Points and boxes of one level, shifted by `offset` of the room between two sizes."""
    for i, size in enumerate(levels(rows, "batch_size")):
        some = rows[rows["batch_size"] == size]
        middle = float(size) * 2 ** (2 * HALF_BOX * offset)
        values = some["value"].to_numpy(dtype=float)
        edges = middle * 2 ** (np.array([-HALF_BOX, HALF_BOX]) / lanes)
        axis.boxplot(
            [values],
            positions=[middle],
            widths=[edges[1] - edges[0]],
            showfliers=False,
            whis=(0, 100),
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": look.colour, "alpha": 0.2, "edgecolor": look.colour},
            medianprops={"color": look.colour, "linewidth": 2},
            whiskerprops={"color": look.colour},
            capprops={"color": look.colour},
        )
        # Spread in the order of the frame, not at random, so that the same frame gives the same picture.
        spread = np.linspace(-HALF_SPREAD, HALF_SPREAD, len(values)) if len(values) > 1 else np.zeros(1)
        place = middle * 2 ** (spread / lanes)
        axis.plot(
            place,
            values,
            look.marker,
            color=look.colour,
            markersize=3.5,
            label=f"{prefix}single batches" if i == 0 else None,
        )
        if "status" in some.columns:
            doubtful = some.assign(place=place)[(some["status"] != "ok").to_numpy()]
            hollow(axis, doubtful, "place", look, "hollow: not converged")


def _whole(axis: Axes, rows: pd.DataFrame, look: Mark | None, prefix: str) -> None:
    for _, row in rows.iterrows():
        colour = look.colour if look else BLACK
        axis.axhline(
            row["value"], color=colour, linestyle=(0, (5, 1.5)), linewidth=1.2, label=f"{prefix}all examples"
        )
        if row["n"] > 1:
            axis.axhspan(row["low"], row["high"], color=colour, alpha=0.12, linewidth=0)


def _ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Each batch's value over that of all examples of the same seed."""
    seeds = rows["seed"] if "seed" in rows.columns else pd.Series(0, index=rows.index)
    whole = rows[rows["draw"].isna()].groupby(seeds)["value"].mean()
    drawn = rows[rows["draw"].notna()]
    return drawn.assign(value=drawn["value"] / seeds[drawn.index].map(whole[whole != 0]))


def _written(axis: Axes, ratios: pd.DataFrame, look: Mark, lane: int, lanes: int) -> None:
    """The mean ratio above each size; nothing where it is undefined."""
    means = ratios.groupby("batch_size")["value"].mean().dropna()
    for size, ratio in zip(means.index.to_numpy(dtype=float), means, strict=True):
        axis.text(
            size,
            0.98 - 0.075 * lane,
            f"×{plain_number(float(f'{ratio:.3g}'))}",
            transform=axis.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=8,
            color=look.colour if lanes > 1 else BLACK,
        )


def _sizes(axis: Axes, frame: pd.DataFrame) -> None:
    """A logarithmic axis with a tick at each batch size."""
    sizes = sorted(frame["batch_size"].dropna().unique())
    axis.set_xscale("log")
    if sizes:
        axis.set_xlim(sizes[0] / 1.6, sizes[-1] * 1.6)
        labels = [plain_number(float(size)) for size in sizes]
        axis.xaxis.set_major_locator(FixedLocator(sizes))
        axis.xaxis.set_ticklabels(labels)
    axis.xaxis.set_minor_locator(NullLocator())
