"""By which factor does the gradient grow for each layer it passes on its way back?"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple


class Point(NamedTuple):
    """The gradient at one output: site, kind of module, place among all, one example's shape, log-norm."""

    site: str
    kind: str
    order: int
    shape: tuple[int, ...]
    log_norm: float


class Growth(NamedTuple):
    """Natural logarithm of the factor for each layer towards the input, with its 95 % interval.

    `layers` are those the whole network has; `reason` tells which of them were fitted, or why none. `line` holds, by
    their place in the order of running, the log-norms of the fitted line, each with the ends the rate's interval gives.
    """

    rate: float
    low: float
    high: float
    fitted: int
    layers: int
    reason: str
    line: dict[int, tuple[float, float, float]]


def growth(points: Sequence[Point], layers: int | None = None) -> Growth:
    """Least-squares slope of the log-norm over depth, along layers of one output shape.

    Layers of other shapes, such as a stem and a head, have gradients of other norms for their size alone. So the
    longest run of layers of one shape is fitted; where it has fewer than three, all layers of the commonest shape. Of
    these only the commonest kind of module, if there are three of it: a convolution's gradient is that of the batch
    normalisation behind it on another scale. A layer is one output heard, so those between count.

    The deviations from the line are not independent: each layer multiplies the norm by a factor of its own, so they
    add up along the depth. The interval is therefore taken from the scatter of the steps between neighbours (Student's
    t). Taken from the scatter about the line it would be far too narrow: for random rectifier networks of 10 to 40
    layers it held the true rate 20 to 48 times in 100, this one 93 to 95 times.

    Args:
        points: In the order of running; undefined norms left out.
        layers: How many layers the network has; None for as many as there are points.
    """
    chosen, which = _alike(points)
    layers = len(points) if layers is None else layers
    if len(chosen) < 3:
        return Growth(
            math.nan,
            math.nan,
            math.nan,
            len(chosen),
            layers,
            f"a rate needs three layers of one output shape with a gradient, and there are {len(chosen)}",
            {},
        )
    place = [float(point.order) for point in chosen]
    value = [point.log_norm for point in chosen]
    middle = sum(place) / len(place)
    spread = sum((x - middle) ** 2 for x in place)
    slope = sum((x - middle) * y for x, y in zip(place, value, strict=True)) / spread
    half = _half_width(place, value, [(x - middle) / spread for x in place])
    line = {}
    for point in chosen:
        there, open_by = (
            sum(value) / len(value) + slope * (point.order - middle),
            half * abs(point.order - middle),
        )
        line[point.order] = (there, there - open_by, there + open_by)
    return Growth(-slope, -slope - half, -slope + half, len(chosen), layers, which, line)


def _half_width(place: Sequence[float], value: Sequence[float], weights: Sequence[float]) -> float:
    """Of the slope's 95 % interval, for values that are a line plus a sum of independent steps."""
    from scipy.stats import t

    gaps = [b - a for a, b in pairwise(place)]
    steps = [b - a for a, b in pairwise(value)]
    drift = sum(steps) / sum(gaps)
    scatter = sum((s - drift * g) ** 2 / g for s, g in zip(steps, gaps, strict=True)) / (len(steps) - 1)
    # A step moves every later value, so its weight in the slope is the sum of theirs.
    later = [sum(weights[k:]) for k in range(1, len(weights))]
    variance = scatter * sum(g * w**2 for g, w in zip(gaps, later, strict=True))
    return float(t.ppf(0.975, len(steps) - 1)) * math.sqrt(variance)


def _alike(points: Sequence[Point]) -> tuple[list[Point], str]:
    runs = [list(run) for _, run in groupby(points, key=lambda point: point.shape)]
    chosen: list[Point] = max(runs, key=len, default=[])
    how = "successive "
    if len(chosen) < 3 and points:
        common = Counter(point.shape for point in points).most_common(1)[0][0]
        chosen, how = [point for point in points if point.shape == common], ""
    if not chosen:
        return [], ""
    kind, number = Counter(point.kind for point in chosen).most_common(1)[0]
    named = ""
    if number >= 3:
        how, named = (how if number == len(chosen) else ""), f"{kind} "
        chosen = [point for point in chosen if point.kind == kind]
    shape = "x".join(map(str, chosen[0].shape))
    ends = f"{chosen[0].site} to {chosen[-1].site}"
    return chosen, f"fitted over {len(chosen)} {how}{named}outputs of shape {shape}, {ends}"
