"""Which branches are closed, alone and together: everything a lesion study measures but what it searches for."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradscope.instruments.junctions.junction import Junction

# Places of the closed junctions among those that can be closed, ascending.
Closed = tuple[int, ...]
INTACT: Closed = ()


@dataclass(frozen=True)
class Lesion:
    """Branches closed together, and the row they make.

    Attributes:
        part: `intact`, `single`, `set`, `group` or `greedy`.
        closed: Which branches.
        junction, kind, index, draw: As in the frame.
        recalibrated: Whether measured with recalibrated statistics too.
    """

    part: str
    closed: Closed
    junction: str
    kind: str
    index: int
    draw: int
    recalibrated: bool


def intact_network() -> Lesion:
    return Lesion("intact", INTACT, "", "", -1, -1, True)


def planned(
    junctions: Sequence[Junction],
    *,
    singles: bool,
    sets: Sequence[int] | None,
    subsets: int,
    recalibrate: Any,
    groups: Any,
    seed: int,
) -> list[Lesion]:
    """The intact network, every junction, random sets and groups of them, in this order.

    Raises:
        ValueError: A number in `sets` that is out of range, no subsets, an unknown choice of `recalibrate` or
            `groups`, or a pattern that no junction matches.
    """
    branches = len(junctions)
    numbers = spread(branches) if sets is None else list(sets)
    wrong = [count for count in numbers if not _whole(count) or not 1 <= count <= branches]
    if wrong or not _whole(subsets) or subsets < 1:
        raise ValueError(
            f"sets are numbers from 1 to {branches} (the branches here) and subsets is at least 1, "
            f"got sets {numbers} and subsets {subsets}."
        )
    if recalibrate not in (True, False, "half"):
        raise ValueError(
            f"recalibrate is True, False or 'half' (of the random sets), got {recalibrate!r}. Singles and groups are "
            "recalibrated unless it is False."
        )
    always = bool(recalibrate)
    plan = [intact_network()]
    if singles:
        plan += [
            Lesion("single", (place,), junction.name, junction.kind, index, -1, always)
            for place, (junction, index) in enumerate(zip(junctions, indices_of(junctions), strict=True))
        ]
    renewed = (subsets + 1) // 2 if recalibrate == "half" else subsets if recalibrate else 0
    generator = torch.Generator().manual_seed(seed)
    for count in numbers:
        for draw in range(subsets):
            drawn = torch.randperm(branches, generator=generator)[:count]
            closed = tuple(sorted(drawn.tolist()))
            named = ", ".join(junctions[place].name for place in closed)
            plan.append(Lesion("set", closed, named, "set", -1, draw, draw < renewed))
    plan += [
        Lesion("group", closed, name, "group", -1, 0, always)
        for name, closed in _groups(junctions, groups).items()
        # A kind of one junction has its row already.
        if groups != "kind" or len(closed) > 1 or not singles
    ]
    return plan


def indices_of(junctions: Sequence[Junction]) -> list[int]:
    """Each junction's own index; places where junctions by hand were given no index of their own."""
    own = [junction.index for junction in junctions]
    return own if len(set(own)) == len(own) else list(range(len(own)))


def spread(branches: int) -> list[int]:
    """Up to ten numbers from 1 to all, evenly; none for a single branch, which is deleted alone already."""
    if branches < 2:
        return []
    return sorted({round(1 + step * (branches - 1) / 9) for step in range(10)})


def _groups(junctions: Sequence[Junction], groups: Any) -> dict[str, Closed]:
    if groups is None:
        return {}
    if groups == "kind":
        kinds = dict.fromkeys(junction.kind for junction in junctions)
        return {kind: tuple(i for i, j in enumerate(junctions) if j.kind == kind) for kind in kinds}
    if not isinstance(groups, Mapping):
        raise ValueError(
            f"groups is 'kind', None, or a mapping from a name to a pattern of junctions, got {groups!r}. "
            "Write groups={'attention': '*attn*', 'mlp': '*mlp*'}."
        )
    named = {
        str(name): tuple(i for i, j in enumerate(junctions) if fnmatch.fnmatchcase(j.name, pattern))
        for name, pattern in groups.items()
    }
    empty = [name for name, closed in named.items() if not closed]
    if empty:
        raise ValueError(
            f"No junction matches {groups[empty[0]]!r}, the pattern of group {empty[0]!r}. The junctions are: "
            f"{', '.join(junction.name for junction in junctions[:8])}."
        )
    return named


def _whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
