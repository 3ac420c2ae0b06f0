"""In which order to visit sets of closed branches, so that what they have in common is computed once."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from gradscope.instruments.resume.cuts import Cut


class Visit(NamedTuple):
    """One set in its turn.

    Attributes:
        place: Its place among the sets asked for.
        closed: The places of its junctions.
        cut: Where its pass is entered; None is the start.
        keep: Cuts whose states later sets go on from.
        last: Whether nobody goes on from the state at `cut` any more.
        again: Whether the set before is the same, so that nothing has to run.
    """

    place: int
    closed: frozenset[int]
    cut: Cut | None
    keep: tuple[Cut, ...]
    last: bool
    again: bool


def schedule(closed: Sequence[Collection[int]], cuts: Sequence[Cut], junctions: int) -> list[Visit]:
    """The sets in an order in which few states wait at a time, and where each goes on from.

    Sorted by their junctions in forward order, closed before open, sets that begin alike are neighbours.
    Of single lesions each then leaves the intact network one junction later than the one before.

    Args:
        closed: Sets of places from 0 to `junctions` - 1.
        cuts: Where a pass can be entered, in forward order.
        junctions: How many there are.

    Raises:
        ValueError: A place out of range.
    """
    sets = [frozenset(places) for places in closed]
    wrong = sorted({place for places in sets for place in places if not 0 <= place < junctions})
    if wrong:
        raise ValueError(
            f"Sets hold places of junctions from 0 to {junctions - 1}, got {wrong[:5]}. Pass places in the "
            "sequence of closable junctions."
        )
    order = sorted(
        range(len(sets)), key=lambda index: [place not in sets[index] for place in range(junctions)]
    )
    again, entered = [False] * len(order), [-1] * len(order)
    keep: list[set[int]] = [set() for _ in order]
    last = [True] * len(order)
    for turn in range(1, len(order)):
        differing = sets[order[turn]] ^ sets[order[turn - 1]]
        again[turn] = not differing
        shared = min(differing, default=0)
        entered[turn] = sum(cut.place <= shared for cut in cuts) - 1
        giver = turn - 1
        while again[giver] or entered[giver] > entered[turn]:
            giver -= 1
        if entered[turn] < 0 or again[turn]:
            continue
        if entered[giver] == entered[turn]:
            last[giver] = False
        else:
            keep[giver].add(entered[turn])
    return [
        Visit(
            order[turn],
            sets[order[turn]],
            None if entered[turn] < 0 else cuts[entered[turn]],
            tuple(cuts[place] for place in sorted(keep[turn])),
            last[turn],
            again[turn],
        )
        for turn in range(len(order))
    ]
