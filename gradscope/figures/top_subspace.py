"""How few directions hold the curvature, and how much of the gradient lies in them?"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import drawable, levels, note_left_out, over_seeds, require
from .hollow import band, points, seeds_or_bounds
from .scales import logarithmic, plain_number
from .style import GREY, Mark, house_style, marks

COUNTS = {"classes": (0, (1.2, 1.2)), "outliers": (0, (5, 1.5))}


def top_subspace(
    frame: pd.DataFrame,
    *,
    hue: str = "network",
    x_label: str = "rank (count from the largest eigenvalue)",
    ax: Axes | None = None,
) -> Figure:
    """The largest eigenvalues by rank, and the share of the gradient in the space of the first so many eigenvectors.

    The share of a random direction, rank / parameters, is drawn beside the gradient's, with its interval. Vertical
    lines mark how many classes the data have and how many eigenvalues stand apart from the bulk. The ratio of the
    largest to the fifth-largest eigenvalue is in the legend.

    Args:
        frame: As `top_subspace` returns it: columns `rank`, `quantity` ("eigenvalue", "gradient_share", "random_share",
            "outliers", "classes"), `value`, and `hue`, `seed`, `low`, `high`, `status` where there are any.
        hue: Condition told apart by colour, marker and dash; left out for one network.
        x_label: With unit.
        ax: Axes to draw into, divided when there are both eigenvalues and shares; None for a new figure.

    Raises:
        ValueError: The frame lacks a column, or has neither eigenvalues nor shares.

    Source:
        Sagun et al. (2017), arXiv:1706.04454; Ghorbani et al. (2019), arXiv:1901.10159; Papyan (2018),
        arXiv:1811.07062; the ratio: Foret et al. (2020), arXiv:2010.01412.
    """
    who = "top_subspace"
    require(frame, ["rank", "quantity", "value"], who)
    if hue not in frame.columns:
        frame = frame.assign(**{hue: "measured"})
    wanted = [q for q in ("eigenvalue", "gradient_share") if (frame["quantity"] == q).any()]
    if not wanted:
        raise ValueError(
            f"{who} draws the quantities 'eigenvalue' and 'gradient_share', but the frame has "
            f"{sorted(frame['quantity'].astype(str).unique())}."
        )
    frame = frame[frame["quantity"].isin([*wanted, "random_share", *COUNTS])]
    kept, left_out = drawable(frame, ["value"])
    summary = over_seeds(kept, [hue, "quantity", "rank"], who)
    looks = marks(levels(frame, hue))
    with house_style():
        figure, axes = canvas(ax, len(wanted), columns=1, height=2.6, share_x=True)
        for axis, quantity in zip(axes, wanted, strict=True):
            rows = summary[(summary["quantity"] == quantity) & summary["rank"].notna()]
            for level, some in rows.groupby(hue, sort=False):
                label = str(level) + (_ratio(some) if quantity == wanted[0] == "eigenvalue" else "")
                points(axis, some, "rank", looks[level], label if axis is axes[0] else None)
            if quantity == "eigenvalue":
                if len(rows) and (rows["value"] > 0).all():
                    logarithmic(axis)
                axis.set_ylabel("eigenvalue\n(loss per squared parameter)")
            else:
                _random(axis, summary[summary["quantity"] == "random_share"], hue, looks)
                axis.set_ylim(-0.03, 1.03)
                axis.set_ylabel("share of the squared\ngradient (dimensionless)")
            _counts(axis, summary, hue, looks)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        note = seeds_or_bounds(summary)
        axes[-1].set_xlabel(f"{x_label}\n{note}".rstrip())
        note_left_out(axes[-1], left_out, len(frame))
        legend_below(figure, axes, ax)
    return figure


def _ratio(rows: pd.DataFrame) -> str:
    """lambda_1 / lambda_5 where both are there and positive."""
    values = rows.set_index("rank")["value"]
    if not {1, 5} <= set(values.index) or not values[5] > 0:
        return ""
    return f" (1st / 5th: {plain_number(float(f'{values[1] / values[5]:.2g}'))})"


def _random(axis: Axes, rows: pd.DataFrame, hue: str, looks: dict[object, Mark]) -> None:
    for i, (level, some) in enumerate(rows.groupby(hue, sort=False)):
        some = some.sort_values("rank")
        axis.plot(
            some["rank"],
            some["value"],
            color=looks[level].colour,
            linestyle=(0, (1.2, 1.2)),
            linewidth=1.0,
            label="of a random direction, 95 % band" if i == 0 else None,
        )
        band(axis, some, some["rank"].to_numpy(dtype=float), looks[level], logarithmic=False)


def _counts(axis: Axes, summary: pd.DataFrame, hue: str, looks: dict[object, Mark]) -> None:
    """Vertical lines: grey for a number that all levels share, else each in its colour."""
    for quantity, dash in COUNTS.items():
        rows = summary[summary["quantity"] == quantity]
        common = rows["value"].nunique() <= 1
        for i, (level, value) in enumerate(zip(rows[hue], rows["value"], strict=True)):
            if common and i:
                continue
            axis.axvline(
                value,
                color=GREY if common else looks[level].colour,
                linestyle=dash,
                linewidth=1.2,
                label=_named(quantity, rows["value"]) if i == 0 else None,
            )


def _named(quantity: str, values: pd.Series) -> str:
    what = {"classes": "classes of the data", "outliers": "eigenvalues apart from the bulk"}[quantity]
    numbers = dict.fromkeys(plain_number(float(f"{value:.3g}")) for value in values)
    return f"{what}: {', '.join(numbers)}"
