"""Which junctions follow one another at one shape, and what state each hands on to the next."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradscope.instruments.streams import Stream


class Stages(NamedTuple):
    """The stages of a network, as one forward pass showed them.

    Attributes:
        stage: Number of the stage of each junction, from 0. A stage begins with a block that changes the
            shape or whose skip is no identity, or that does not follow the junction before.
        found: Per junction, where the state that its block hands on is: `total` (the sum itself), `after`
            (the ReLU or normalisation behind it), `next` (the skip of the junction that follows); empty where
            the last block of a stage ends in something that cannot be told from the others.
    """

    stage: tuple[int, ...]
    found: tuple[str, ...]

    def output(self, heard: Sequence[Stream], place: int) -> Tensor | None:
        """The state behind the block of junction `place`, [N, ...]; None where it is not found."""
        stream = heard[place]
        if self.found[place] == "next":
            return heard[place + 1].skip
        return {"total": stream.total, "after": stream.after}.get(self.found[place])

    def members(self, stage: int) -> list[int]:
        """Places of the junctions of a stage."""
        return [place for place, own in enumerate(self.stage) if own == stage]


def stages_of(heard: Sequence[Stream]) -> Stages:
    """The stages of the junctions that were heard in one forward pass, whose graph has to be alive."""
    stage, found = [0] if heard else [], []
    for stream, follower in pairwise(heard):
        link = _link(stream, follower)
        stage.append(stage[-1] + (link == ""))
        found.append(link)
    found += [""] if heard else []
    return Stages(
        tuple(stage), tuple(link or _habit(place, stage, found, heard) for place, link in enumerate(found))
    )


def _link(stream: Stream, follower: Stream) -> str:
    """Where the state between two junctions of a stage is; empty if a new stage begins."""
    shape = tuple(follower.total.shape[1:])
    if tuple(stream.total.shape[1:]) != shape or follower.junction.kind != "identity":
        return ""
    if follower.skip_edge is None or stream.total_edge is None:
        return ""
    if not _derives(follower.skip_edge, stream.total_edge):
        return ""
    if torch.equal(stream.total, follower.skip):
        return "total"
    return "after" if stream.after is not None and torch.equal(stream.after, follower.skip) else "next"


def _habit(place: int, stage: Sequence[int], found: Sequence[str], heard: Sequence[Stream]) -> str:
    """Where the last block of a stage has its state, if all others, of its stage or else of all, agree."""
    own = {link for other, link in enumerate(found) if link and stage[other] == stage[place]}
    habits = own or {link for link in found if link} or {"total"}
    if habits == {"after"} and heard[place].after is not None:
        return "after"
    return "total" if habits == {"total"} else ""


def _derives(edge: GradientEdge, origin: GradientEdge) -> bool:
    """Whether a way leads from one node of the graph to another; usually it is a short one."""
    waiting, seen = [edge.node], {edge.node}
    for node in waiting:
        if node is origin.node:
            return True
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return False
