"""Greedy removal: which branch is missed least, then which of the rest, and so on."""

import math
from collections.abc import Callable

from torch import Tensor

from gradscope.studies.lesions.bench import Bench, Passes, Values, Work
from gradscope.studies.lesions.plan import Closed


def greedy_removal(
    bench: Bench, passes: Passes, steps: int, known: Values, advance: Callable[[int], None]
) -> list[tuple[int, Closed, Tensor]]:
    """Close, one after the other, the branch whose closing costs least by the first metric's mean.

    Ties go to the earlier junction; a lesion with a value that is not finite is chosen last.

    Args:
        bench: What is measured; `bench.branches` can be closed.
        passes: How.
        steps: How many are closed, at most all.
        known: Values of single lesions, measured already.
        advance: Told of each lesioned batch.

    Returns:
        For each step: place of the branch closed, all places closed, and the values, [metrics, N].
    """
    sign = 1.0 if bench.metrics[0].larger_is_worse else -1.0
    closed: Closed = ()
    path = []
    for _ in range(steps):
        candidates = {
            place: tuple(sorted((*closed, place))) for place in range(bench.branches) if place not in closed
        }
        unknown = [places for places in candidates.values() if places not in known]
        values = known | bench.measured(passes, unknown, bench.statistics[0], advance)
        cost = {place: _cost(sign * values[places][0].mean().item()) for place, places in candidates.items()}
        place = min(cost, key=lambda candidate: cost[candidate])
        closed = candidates[place]
        path.append((place, closed, values[closed]))
        known = {}
    return path


def search_work(bench: Bench, passes: Passes, steps: int, singles_known: bool) -> Work:
    """What `greedy_removal` costs; where prefixes are shared, estimated from above.

    Which branches will be left is not known; the earliest leave the most to run anew.
    """
    total = Work(0.0, 0.0)
    for step in range(1 if singles_known else 0, steps):
        like = [(place,) for place in range(bench.branches - step)]
        work = bench.work(passes, like, bench.statistics[0])
        total = Work(total.passes + work.passes, total.examples + work.examples)
    return total


def _cost(value: float) -> float:
    return value if math.isfinite(value) else math.inf
