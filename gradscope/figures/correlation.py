"""Do the gradients of different examples agree less, the deeper the network?"""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import canvas, legend_below
from .frames import (
    drawable,
    interval_note,
    levels,
    note_left_out,
    over_seeds,
    require,
    single_quantity,
    whiskers,
)
from .scales import logarithmic, plain_number
from .style import DASHES, MARKERS, Mark, house_style, marks

MEANINGS = {
    "correlation_R": "as given",
    "twin_correlation_R": "skips cut",
    "theory_correlation_R": "theory",
}
# As many names, of so many letters, as can be read at the foot of one picture.
FEW, SHORT = 12, 24


def correlation_against_depth(
    frame: pd.DataFrame,
    theory: pd.DataFrame | None = None,
    hue: str = "family",
    style: str | None = None,
    *,
    x_scale: Literal["log", "linear"] | None = None,
    y_scale: Literal["log", "linear"] | None = None,
    floor: float | None = None,
    x_label: str | None = None,
    y_label: str = "gradient correlation R (dimensionless)",
    ax: Axes | None = None,
) -> Figure:
    """Gradient correlation against depth, one line per level of `hue`, theory over it.

    Args:
        frame: As `gradient_correlation` returns it (with `site`, and without `hue`): the network as given, with its
            skips cut, and as theory expects, from the input (0) to the last layer, few layers by name; of layers that
            run more than once the first call. Or any frame with columns `depth` (> 0 on a log axis), `value`, `hue`
            (left out for one network), and `style`, `seed`, `low`, `high` where there are any, of which
            `correlation_R` is drawn. Several seeds are drawn as their mean with a Student-t 95 % interval; a single
            one with its own `low` and `high`.
        theory: Columns `hue`, `depth`, `value`, `law`: thin dashed curves named by their law.
        hue: Condition told apart by colour, marker and dash.
        style: Second condition, told apart by marker and dash; colour then belongs to `hue` alone.
        x_scale: "log" (base 2) for depths of different networks, "linear" for layers of one; None for whichever it is.
        y_scale: On "log", means that are not positive are counted in a note. None as for x.
        floor: On "log", where the axis begins; what lies below is under it. None for what is drawn.
        x_label: With unit; None for layers, by number or name.
        y_label: With unit.
        ax: Axes to draw into; None for a new figure.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591.
    """
    who = "correlation_against_depth"
    by = [hue, *([style] if style else []), "depth"]
    layers = "site" in frame.columns and "quantity" in frame.columns and hue not in frame.columns
    if layers:
        frame = _of_one_network(frame, hue)
    elif hue not in frame.columns:
        frame = frame.assign(**{hue: "as measured"})
    usual: Literal["log", "linear"] = "linear" if layers else "log"
    x_scale, y_scale = x_scale or usual, y_scale or usual
    if x_label is None:
        x_label = "layer (order of running; 0 is the input)" if layers else "depth (layers)"
    require(frame, [*by, "value"], who)
    if "quantity" in frame.columns and (frame["quantity"] == "correlation_R").any():
        frame = frame[frame["quantity"] == "correlation_R"]
    single_quantity(frame, who)
    kept, left_out = drawable(frame, ["depth", "value"])
    at_zero = 0
    if x_scale == "log":
        at_zero = int((kept["depth"] <= 0).sum())
        kept = kept[kept["depth"] > 0]
    summary = over_seeds(kept, by, who)
    shown, hidden = drawable(summary, ["value"], positive=y_scale == "log")
    looks = marks(levels(frame, hue))
    with house_style():
        figure, (axis,) = canvas(ax, height=3.4)
        for name, rows in shown.groupby([hue, *([style] if style else [])], sort=False):
            look = looks[name[0]]
            if style:
                turn = levels(frame, style).index(name[1])
                look = Mark(look.colour, MARKERS[turn % len(MARKERS)], DASHES[turn % len(DASHES)])
            rows = rows.sort_values("depth")
            label = ", ".join(str(part) for part in name)
            axis.errorbar(
                rows["depth"],
                rows["value"],
                yerr=whiskers(rows),
                label=label,
                capsize=2.5,
                **look.line(zorder=3),
            )
        if theory is not None:
            _curves(axis, theory, hue, looks, who)
        if x_scale == "log":
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(plain_number)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
            names = _name_layers(axis, kept)
            if names and ax is None:
                # Slanted names take their height from the axis, whose own label would not fit beside it.
                figure.set_figheight(figure.get_figheight() + 0.06 * max(map(len, names)))
        if y_scale == "log":
            logarithmic(axis)
            if floor is not None:
                axis.set_ylim(floor, 1.5)
        note = interval_note(shown) if len(shown) else ""
        axis.set_xlabel(f"{x_label}\n{note}" if note else x_label)
        axis.set_ylabel(y_label)
        note_left_out(axis, left_out, len(frame))
        note_left_out(axis, at_zero, len(frame), "depth 0, the input, is not on a log axis")
        note_left_out(axis, hidden, len(summary), "not positive, so not on a log axis")
        legend_below(figure, [axis], ax)
    return figure


def _of_one_network(frame: pd.DataFrame, hue: str) -> pd.DataFrame:
    """The rows of the network, of its twin and of theory, as three levels of `hue`."""
    drawn = frame[frame["quantity"].isin(MEANINGS)]
    if drawn.empty:
        return frame.assign(**{hue: "as measured"})
    if "call" in drawn.columns:
        drawn = drawn[drawn["call"] == drawn.groupby(["quantity", "site"])["call"].transform("min")]
    levels_of: dict[str, Any] = {hue: drawn["quantity"].map(MEANINGS), "quantity": "correlation_R"}
    return drawn.assign(**levels_of)


def _name_layers(axis: Axes, rows: pd.DataFrame) -> list[str]:
    """Ticks with the names of sites, where they are few, short, and one for each depth; these names, or none."""
    if "site" not in rows.columns:
        return []
    names = rows[["depth", "site"]].drop_duplicates().sort_values("depth")
    sites = [str(site) for site in names["site"]]
    if not 0 < len(sites) <= FEW or names["depth"].duplicated().any() or max(map(len, sites)) > SHORT:
        return []
    axis.set_xticks(names["depth"].to_numpy(dtype=float), sites, rotation=40, ha="right")
    return sites


def _curves(axis: Axes, theory: pd.DataFrame, hue: str, looks: dict, who: str) -> None:
    require(theory, [hue, "depth", "value", "law"], f"{who} (theory)")
    for (name, law), rows in theory.groupby([hue, "law"], sort=False):
        rows = drawable(rows, ["depth", "value"])[0].sort_values("depth")
        colour = looks[name].colour if name in looks else "black"
        label = f"theory, {name}: {law}"
        axis.plot(
            rows["depth"], rows["value"], color=colour, linestyle=(0, (3, 2)), linewidth=0.9, label=label
        )
