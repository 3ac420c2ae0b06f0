"""Which junctions follow one another at one shape, and what state each hands on to the next."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradscope.instruments.junctions.edges import copied_from, derives, same_place
from gradscope.instruments.junctions.graph import Node
from gradscope.instruments.streams import Stream


class Stages(NamedTuple):
    """The stages of a network, as one forward pass showed them; read off the graph, not off values.

    Attributes:
        stage: Number of the stage of each junction, from 0, level by level. A stage begins with a block that
            changes the shape or whose skip is no identity, or that does not follow the junction before.
        found: Per junction, what the state that its block hands on is: `total` (the sum itself), `after`
            (the ReLU or normalisation behind it), `next` (something else, known as the skip of the junction
            that follows); empty where the last block of a stage ends in something that cannot be told from the
            others.
        follower: Per junction, the place of the next one of its stage; None for the last.
        last: Number of the last stage of the outermost level.
    """

    stage: tuple[int, ...]
    found: tuple[str, ...]
    follower: tuple[int | None, ...]
    last: int

    def output(self, heard: Sequence[Stream], place: int) -> Tensor | None:
        """The state behind the block of junction `place`, [N, ...]; None where it is not found."""
        follower = self.follower[place]
        if follower is not None:
            return heard[follower].skip
        return {"total": heard[place].total, "after": heard[place].after}.get(self.found[place])

    def members(self, stage: int) -> list[int]:
        """Places of the junctions of a stage."""
        return [place for place, own in enumerate(self.stage) if own == stage]


def stages_of(heard: Sequence[Stream]) -> Stages:
    """The stages of the junctions that were heard in one forward pass, whose graph has to be alive.

    Args:
        heard: All junctions of their levels that can be heard: the state behind a block would otherwise be
            taken for that behind one which follows later.
    """
    sums = {stream.total_edge.node for stream in heard if stream.total_edge is not None}
    stage, found = [0] * len(heard), [""] * len(heard)
    follower: list[int | None] = [None] * len(heard)
    number, last = -1, 0
    levels = sorted({stream.junction.level for stream in heard})
    for level in levels:
        before = None
        for place, stream in enumerate(heard):
            if stream.junction.level != level:
                continue
            link = "" if before is None else _link(heard[before], stream, sums)
            if before is not None and link:
                found[before], follower[before] = link, place
            number += not link
            stage[place], before = number, place
        last = number if level == levels[0] else last
    habits = [link or _habit(place, stage, found, heard) for place, link in enumerate(found)]
    return Stages(tuple(stage), tuple(habits), tuple(follower), last)


def _link(stream: Stream, follower: Stream, sums: Collection[Node]) -> str:
    """What the state between two junctions of a stage is; empty if a new stage begins."""
    shape = tuple(follower.total.shape[1:])
    if tuple(stream.total.shape[1:]) != shape or follower.junction.kind != "identity":
        return ""
    if follower.skip_edge is None or stream.total_edge is None:
        return ""
    if not derives(follower.skip_edge, stream.total_edge, sums):
        return ""
    for steps, copy in enumerate(copied_from(follower.skip_edge)):
        for where, state, edge in (
            ("total", stream.total, stream.total_edge),
            ("after", stream.after, stream.after_edge),
        ):
            if state is not None and same_place(copy, edge) and (not steps or _same(state, follower.skip)):
                return where
    return "next"


def _same(state: Tensor, copy: Tensor) -> bool:
    """Whether a copy is one as it stands: not turned round, and with nothing but 0 added to it."""
    return torch.equal(state.to(copy.dtype).nan_to_num(), copy.nan_to_num())


def _habit(place: int, stage: Sequence[int], found: Sequence[str], heard: Sequence[Stream]) -> str:
    """Where the last block of a stage has its state, if all others, of its stage or else of all, agree."""
    own = {link for other, link in enumerate(found) if link and stage[other] == stage[place]}
    habits = own or {link for link in found if link} or {"total"}
    if habits == {"after"} and heard[place].after is not None:
        return "after"
    return "total" if habits == {"total"} else ""
