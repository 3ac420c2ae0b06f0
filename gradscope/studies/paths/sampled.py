"""Single paths, drawn uniformly among those of one length, and the norms of their gradients."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.gradients.split import Paths
from gradscope.studies.paths.counts import Counts, Link
from gradscope.studies.paths.norms import Parts

# So many numbers of results are held at a time: 64 MB.
_HELD = 2**23


def drawn_paths(
    counts: Counts, lengths: Sequence[int], sampled: int, generator: random.Random
) -> list[list[list[int]]]:
    """For each length paths drawn with replacement, or all of them if there are no more than asked for.

    Args:
        counts: Of the paths of a chain.
        lengths: Which.
        sampled: How many of each.
        generator: Of the paths.

    Returns:
        Per length, per path, the branches that it crosses.
    """
    if counts.links is None:
        return []
    ways = ways_on(counts.links)
    drawn = []
    for length in lengths:
        number = ways[0][length]
        places = range(number) if number <= sampled else [generator.randrange(number) for _ in range(sampled)]
        drawn.append([chosen(counts.links, ways, length, place) for place in places])
    return drawn


def path_norms(
    paths: Paths, parts: Parts, crossed: Sequence[Sequence[int]], lifts: Sequence[int], engine: str = "auto"
) -> Tensor:
    """Norms of the gradients of single paths, by masks that leave one path each, many of them in one backward.

    Args:
        paths: The live forward pass of a chain.
        parts: What each norm is taken of.
        crossed: Per path, the branches that it crosses.
        lifts: Per path, the power of two by which each of its crossings is multiplied on the way, against underflow.
        engine: As in `path_gradients`.

    Returns:
        [len(crossed), E], float64, on the CPU.
    """
    branches = torch.zeros(len(crossed), len(paths.branches), dtype=torch.float64)
    carries = torch.ones(len(crossed), len(paths.junctions), dtype=torch.float64)
    place = {junction.index: number for number, junction in enumerate(paths.junctions)}
    for path, (members, lift) in enumerate(zip(crossed, lifts, strict=True)):
        for branch in members:
            branches[path, branch] = math.ldexp(1.0, lift)
            carries[path, place[paths.branches[branch].junction.index]] = 0.0
    size = sum(math.prod(target.shape) for target in paths.graph.targets)
    norms = []
    for some in torch.arange(len(crossed)).split(max(1, _HELD // max(1, size))):
        rows = parts.rows(paths.gated(branches[some], carries[some], engine=engine))
        largest = rows.abs().amax(dim=2, keepdim=True)
        unit = torch.where(largest > 0, largest, 1.0)
        norms.append((torch.linalg.vector_norm(rows / unit, dim=2) * unit[:, :, 0]).cpu())
    lifted = torch.tensor([lift * len(members) for members, lift in zip(crossed, lifts, strict=True)])
    return torch.ldexp(torch.cat(norms), -lifted[:, None])


def chosen(links: Sequence[Link], ways: Sequence[Sequence[int]], length: int, place: int) -> list[int]:
    """The branches that path number `place` of those of one length crosses: a bijection, so uniform if `place` is.

    Args:
        links: The chain.
        ways: As `ways_on` gives them.
        length: How many branches are crossed.
        place: From 0, below `ways[0][length]`.
    """
    crossed = []
    for number, link in enumerate(links):
        onward = ways[number + 1]
        past = onward[length] if link.carried and length < len(onward) else 0
        if place < past:
            continue
        branch, place = divmod(place - past, onward[length - 1])
        crossed.append(link.branches[branch])
        length -= 1
    return crossed


def ways_on(links: Sequence[Link]) -> list[list[int]]:
    """For each link, and behind the last, how many ways lead on across 0, 1, ... branches."""
    ways = [[1]]
    for link in reversed(links):
        before = ways[-1]
        longer = [int(link.carried) * number for number in before] + [0]
        for length, number in enumerate(before):
            longer[length + 1] += len(link.branches) * number
        ways.append(longer)
    return ways[::-1]
