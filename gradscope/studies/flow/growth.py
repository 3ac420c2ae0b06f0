"""By which factor does the gradient grow for each layer it passes on its way back?"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple


class Point(NamedTuple):
    """The gradient at one output: site, kind of module, place among all, one example's shape, log-norm (or NaN)."""

    site: str
    kind: str
    order: int
    shape: tuple[int, ...]
    log_norm: float
    call: int = 0


class Growth(NamedTuple):
    """Natural logarithm of the factor for each layer towards the input, with its 95 % interval.

    Attributes:
        fitted: How many outputs were fitted.
        span: How many layers the gradient passes between them; the rate says nothing beyond these.
        reason: Which outputs were fitted, or why none.
        line: By their place in the order of running, the log-norms of the fitted line, each with the ends that the
            rate's interval gives.
    """

    rate: float
    low: float
    high: float
    fitted: int
    span: int
    reason: str
    line: dict[int, tuple[float, float, float]]


class _Run(NamedTuple):
    """Successive outputs of one shape, at their places in the sequence."""

    points: list[Point]
    places: list[float]


def growth(points: Sequence[Point], named: bool = False) -> Growth:
    """Least-squares slope of the log-norm over depth, along the same place in successive layers.

    Outputs that follow each other in time need not follow each other in the network: embeddings stand side by side,
    and a branch inside a block has another gradient than the stream it is added to. So only like is fitted to like: the
    outputs of one kind of module at the same place in successive blocks (names that differ in the block's number
    alone), of these the ones that run last in a block, whose gradient is that of the block's output where they are
    added to a stream. Where there are no blocks, names that differ in any number. A gradient's norm depends on the
    shape, so each run of outputs of one shape has a level of its own, and all share the slope. A layer is one
    step along the sequence.

    The deviations from the line are not independent: each layer multiplies the norm by a factor of its own, so they
    add up along the depth. The interval is therefore taken from the scatter of the steps between neighbours (Student's
    t). Taken from the scatter about the line it would be far too narrow: for random rectifier networks of 10 to 40
    layers it held the true rate 20 to 48 times in 100, this one 93 to 95 times.

    Args:
        points: In the order of running; the log-norm is NaN where it is not known.
        named: The user named these outputs, so that any of one kind are taken for a sequence.
    """
    runs, kind = _sequence(points, named)
    fitted, steps = sum(len(run.points) for run in runs), sum(len(run.points) - 1 for run in runs)
    if steps < 2:
        known = sum(not math.isnan(point.log_norm) for point in points)
        reason = (
            "a rate needs three layers of one output shape with a gradient, of one kind and alike but for a number in "
            f"their names; no three of {known} outputs are. Name a sequence with at="
        )
        return Growth(math.nan, math.nan, math.nan, 0, 0, reason, {})
    middles = [sum(run.places) / len(run.places) for run in runs]
    spread = sum((x - m) ** 2 for run, m in zip(runs, middles, strict=True) for x in run.places)
    weights = [[(x - m) / spread for x in run.places] for run, m in zip(runs, middles, strict=True)]
    slope = sum(
        w * point.log_norm
        for run, of_run in zip(runs, weights, strict=True)
        for w, point in zip(of_run, run.points, strict=True)
    )
    half = _half_width(runs, weights)
    line = {}
    for run, middle in zip(runs, middles, strict=True):
        level = sum(point.log_norm for point in run.points) / len(run.points)
        for point, x in zip(run.points, run.places, strict=True):
            there, open_by = level + slope * (x - middle), half * abs(x - middle)
            line[point.order] = (there, there - open_by, there + open_by)
    span = round(sum(run.places[-1] - run.places[0] for run in runs))
    return Growth(-slope, -slope - half, -slope + half, fitted, span, _told(runs, kind, fitted), line)


def _half_width(runs: Sequence[_Run], weights: Sequence[Sequence[float]]) -> float:
    """Of the slope's 95 % interval, for values that are a line plus a sum of independent steps."""
    from scipy.stats import t

    gaps = [b - a for run in runs for a, b in pairwise(run.places)]
    steps = [b.log_norm - a.log_norm for run in runs for a, b in pairwise(run.points)]
    drift = sum(steps) / sum(gaps)
    scatter = sum((s - drift * g) ** 2 / g for s, g in zip(steps, gaps, strict=True)) / (len(steps) - 1)
    # A step moves every later value of its run, so its weight in the slope is the sum of theirs.
    later = [sum(of_run[k:]) for of_run in weights for k in range(1, len(of_run))]
    variance = scatter * sum(g * w**2 for g, w in zip(gaps, later, strict=True))
    return float(t.ppf(0.975, len(steps) - 1)) * math.sqrt(variance)


def _sequence(points: Sequence[Point], named: bool) -> tuple[list[_Run], str]:
    """The runs of the longest sequence of like outputs; of several, the one that runs last."""

    def in_blocks(site: str) -> str:
        blocks, dot, last = site.rpartition(".")
        return re.sub(r"\d+", "*", blocks) + dot + last

    def anywhere(site: str) -> str:
        return re.sub(r"\d+", "*", site)

    for alike in (in_blocks, anywhere, *([lambda site: ""] if named else [])):
        families: dict[tuple[str, str], list[Point]] = {}
        for point in points:
            families.setdefault((alike(point.site), point.kind), []).append(point)
        found = [(_runs(family), family) for family in families.values()]
        longest = max((sum(len(run.points) - 1 for run in runs) for runs, _ in found), default=0)
        if longest >= 2:
            best = [at for at in found if sum(len(run.points) - 1 for run in at[0]) == longest]
            runs, family = max(best, key=lambda at: at[1][-1].order)
            return runs, family[0].kind
    return [], ""


def _runs(family: Sequence[Point]) -> list[_Run]:
    """Runs of one shape with two known points or more; where shapes alternate, all of the commonest shape."""
    placed = list(enumerate(family))
    whole = [list(run) for _, run in groupby(placed, key=lambda pair: pair[1].shape)]
    if all(len(run) < 2 for run in whole):
        common = Counter(point.shape for point in family).most_common(1)[0][0]
        whole = [list(enumerate(point for point in family if point.shape == common))]
    known = [[pair for pair in run if not math.isnan(pair[1].log_norm)] for run in whole]
    return [
        _Run([point for _, point in run], [float(place) for place, _ in run]) for run in known if len(run) > 1
    ]


def _told(runs: Sequence[_Run], kind: str, fitted: int) -> str:
    shapes = ", ".join("x".join(map(str, run.points[0].shape)) for run in runs)
    of = f"shape {shapes}" if len(runs) == 1 else f"shapes {shapes} (a level for each)"
    ends = (runs[0].points[0], runs[-1].points[-1])
    first, last = (f"{end.site} (call {end.call})" if end.call else end.site for end in ends)
    return f"fitted over {fitted} {kind} outputs of {of}, {first} to {last}"
