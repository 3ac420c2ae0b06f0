"""Where a recorded pass might be entered: sums that all of the later junctions can be reached from."""

from collections.abc import Sequence
from typing import NamedTuple

from gradscope.instruments.resume.liveness import Liveness

# Of very long chains. Lesions of single junctions then take some 1.5 % more than with a cut at each.
MOST_CUTS = 64


class Cut(NamedTuple):
    """A sum from which the pass can go on.

    Attributes:
        call: Place of the call that makes the sum.
        number: Number of that addition.
        place: How many of the closable junctions lie before it.
        cost: How many of them run when the pass goes on from here.
        needed: Places of calls before it that run all the same: masks, positions, the other input's encoder.
    """

    call: int
    number: int
    place: int
    cost: int
    needed: tuple[int, ...]


def candidates(liveness: Liveness, numbers: Sequence[int]) -> tuple[list[Cut], str]:
    """Cuts in forward order, each cheaper to go on from than the one before, or the reason why there are none.

    Args:
        liveness: Of the recorded pass.
        numbers: Of the additions that may become cuts.
    """
    record, count = liveness.record, len(liveness.gated)
    if count == 1:
        return [], "lesions of a single branch share nothing"
    first, last = [min(calls) for calls in liveness.gated], [max(calls) for calls in liveness.gated]
    seen = min(liveness.seen_values(), default=len(record.calls))
    cuts: list[Cut] = []
    for call, number in sorted((record.numbered[n], n) for n in numbers if n in record.numbered):
        before = [junction for junction in range(count) if last[junction] <= call]
        after = [junction for junction in range(count) if first[junction] > call]
        if call > seen or before + after != list(range(count)) or not before or not after:
            continue
        needed = liveness.before(call)
        again = [junction for junction in before if not needed.isdisjoint(liveness.gated[junction])]
        cut = Cut(call, number, len(before), len(after) + len(again), tuple(sorted(needed)))
        if cuts and cuts[-1].place == cut.place and cut.cost <= cuts[-1].cost:
            cuts.pop()
        if cut.cost < (cuts[-1].cost if cuts else count):
            cuts.append(cut)
    if len(cuts) > MOST_CUTS:
        cuts = [cuts[index * len(cuts) // MOST_CUTS] for index in range(MOST_CUTS)]
    if cuts:
        return cuts, ""
    if seen < len(record.calls):
        return [], "Python looks at numbers that a lesion changes, so a part of the pass cannot be left out"
    return [], "what follows any junction needs all that came before it"
