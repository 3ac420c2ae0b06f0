"""Logarithmic axes whose labels are plain text, for the house style never reads mathematics."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TICKS = 9


def plain_number(value: float, _position: float | None = None) -> str:
    """0.01, 300, 10⁻⁷, -2×10⁶: short, and the same in SVG text, PNG and a screen reader.

    Args:
        value: Any finite number.
        _position: Of the tick; matplotlib hands it over and it does not matter.
    """
    value = float(f"{value:.10g}")
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}".replace("-", "−")
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    factor = value / 10.0**exponent
    power = f"10{str(exponent).translate(SUPERSCRIPT)}"
    if math.isclose(abs(factor), 1):
        return power if factor > 0 else f"−{power}"
    return f"{factor:g}×{power}".replace("-", "−")


def logarithmic(axis: Axes, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, with ticks at 1, 2, 5 when it spans less than two decades.

    Call it after everything is drawn, for the choice of ticks looks at the limits.
    """
    getattr(axis, f"set_{which}scale")("log")
    low, high = getattr(axis, f"get_{which}lim")()
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    part = getattr(axis, f"{which}axis")
    part.set_major_locator(LogLocator(base=10, subs=steps, numticks=TICKS))
    part.set_major_formatter(FuncFormatter(plain_number))
    part.set_minor_formatter(NullFormatter())


def symmetric_logarithmic(axis: Axes, linear: float, extent: tuple[float, float]) -> None:
    """Make the x axis linear within +-`linear` and logarithmic outside, with few enough ticks.

    Args:
        axis: Whose x axis.
        linear: Half width of the linear part, > 0.
        extent: Smallest and largest value to show.
    """
    axis.set_xscale("symlog", linthresh=linear, linscale=0.6)
    largest = max(abs(extent[0]), abs(extent[1]), linear)
    first, last = math.floor(math.log10(linear)), math.ceil(math.log10(largest))
    for steps, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 4)):
        sizes = [step * 10.0**power for power in range(last, first - 1, -stride) for step in steps]
        outside = sorted({size for size in sizes if linear * (1 - 1e-9) <= size <= largest})
        ticks = np.array([*(-size for size in reversed(outside)), 0.0, *outside])
        ticks = ticks[(ticks >= extent[0]) & (ticks <= extent[1])]
        if len(ticks) <= TICKS:
            break
    axis.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.xaxis.set_minor_locator(FixedLocator([]))
    axis.xaxis.set_major_formatter(FuncFormatter(plain_number))
