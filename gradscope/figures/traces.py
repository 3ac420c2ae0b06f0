"""What does the gradient of a network of one input look like along that input?"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .canvas import RASTERISE_ABOVE, canvas, label_y
from .frames import drawable, note_left_out, require
from .panels import (
    TRAVELLED,
    X_LABEL,
    by_condition,
    named,
    one_seed,
    refuse_mixed,
    scalars,
    wrapped,
)
from .scales import plain_number
from .style import BLUE, house_style

NORMS = "input_gradient_norm"
# Letters of a title that fit over half a page.
TITLE = 28


def traces(
    frame: pd.DataFrame,
    *,
    columns: int = 2,
    x_label: str | None = None,
    y_label: str = "df/dx\n(scaled per panel)",
    ax: Axes | None = None,
) -> Figure:
    """Small multiples of input gradients along a line of inputs, and of noises where the frame holds any.

    Args:
        frame: Columns `family`, `layers` (NaN for a noise), `x`, `value`, or a frame of `input_trace` or
            `depth_traces` (with its `noise`) as it is; one panel per family and depth, in order of appearance. When
            there are several seeds the first is drawn, for a mean of traces would look like none of them; the title
            says so. The norms that `input_trace` reads of inputs of several numbers are left aside, which a note says;
            they are drawn from `frame.query("quantity == 'input_gradient_norm'")`.
        columns: Panels per row.
        x_label: With unit; None for the input, or the distance travelled between samples.
        y_label: With unit. Each panel has its own scale, since gradients of deep and shallow
            networks differ by orders of magnitude and their shape is the question.
        ax: Axes to divide into panels; None for a new figure.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 1.
    """
    given, frame = frame, named(frame, "input_gradient")
    require(frame, ["family", "layers", "x", "value"], "traces")
    refuse_mixed(frame, given, ["x"], "traces")
    x_label = (X_LABEL if scalars(frame) else TRAVELLED) if x_label is None else x_label
    panels = [one_seed(title, rows) for title, rows in by_condition(frame)]
    with house_style():
        figure, axes = canvas(
            ax, len(panels), columns=columns, height=2.1 if len(panels) <= columns else 1.75, share_x=True
        )
        for axis, (title, rows) in zip(axes, panels, strict=True):
            kept, left_out = drawable(rows, ["x", "value"])
            kept = kept.sort_values("x")
            axis.plot(
                kept["x"], kept["value"], color=BLUE, linewidth=0.8, rasterized=len(kept) > RASTERISE_ABOVE
            )
            power = _power(kept["value"])
            scale = 10.0**power
            axis.set_title(wrapped(f"{title} (×{plain_number(scale)})" if power else title, TITLE))
            axis.set_xlabel(x_label if axis in axes[-min(columns, len(axes)) :] else "")
            axis.locator_params(axis="y", nbins=4)
            axis.yaxis.set_major_formatter(_in_units_of(scale))
            note_left_out(axis, left_out, len(rows))
        if NORMS in set(given.get("quantity", ())) and NORMS not in set(frame["quantity"]):
            last = axes[-1]
            last.set_xlabel(f"{last.get_xlabel()}\n{NORMS} not drawn: filter to it".lstrip())
        label_y(figure, axes, y_label, ax)
    return figure


def _in_units_of(scale: float) -> FuncFormatter:
    return FuncFormatter(lambda value, _: plain_number(value / scale))


def _power(values: pd.Series) -> int:
    """Power of ten to take out of the tick labels; 0 where they are short without."""
    largest = float(values.abs().max()) if len(values) else 0.0
    if largest == 0 or 1e-2 <= largest < 1e4:
        return 0
    return math.floor(math.log10(largest))
