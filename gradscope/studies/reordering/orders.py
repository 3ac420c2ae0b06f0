"""Orders of blocks, and how far they are from the order a network was trained in."""

import math
from collections.abc import Sequence
from itertools import combinations

import torch


def spread(blocks: int) -> list[int]:
    """Up to eight numbers of swaps from 1 to the number of blocks, evenly on a logarithmic scale."""
    return sorted({round(blocks ** (step / 7)) for step in range(8)})


def swapped(
    count: int, groups: Sequence[Sequence[int]], swaps: int, generator: torch.Generator
) -> tuple[int, ...]:
    """The order of `count` blocks after exchanging `swaps` random pairs one after the other.

    Each pair is drawn anew from all pairs within groups, so a pair may come twice and be undone. Exchanges that
    undo all of each other are drawn again, so the order always differs from the one there was.

    Raises:
        ValueError: As `can_differ` tells, no such order exists.
    """
    if not can_differ(groups, swaps):
        raise ValueError(f"{swaps} exchanges of the only pair of blocks undo each other. Take an odd number.")
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    while True:
        drawn = torch.randint(len(pairs), (swaps,), generator=generator).tolist()
        if (order := exchanged(count, [pairs[i] for i in drawn])) != tuple(range(count)):
            return order


def can_differ(groups: Sequence[Sequence[int]], swaps: int) -> bool:
    """Whether so many exchanges can leave another order: not an even number of them with a single pair."""
    return swaps % 2 == 1 or sum(math.comb(len(group), 2) for group in groups) > 1


def exchanged(count: int, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    order = list(range(count))
    for first, second in pairs:
        order[first], order[second] = order[second], order[first]
    return tuple(order)


def reversed_within(count: int, groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The order with each group backwards."""
    order = list(range(count))
    for group in groups:
        for place, source in zip(group, reversed(group), strict=True):
            order[place] = source
    return tuple(order)


def shuffled_within(
    count: int, groups: Sequence[Sequence[int]], generator: torch.Generator
) -> tuple[int, ...]:
    """The order with each group in a random order, uniform among those in which something has moved.

    Raises:
        ValueError: No group has two blocks.
    """
    if not any(len(group) > 1 for group in groups):
        raise ValueError(f"No group has two blocks to shuffle, got {[list(group) for group in groups]}.")
    while True:
        order = list(range(count))
        for group in groups:
            drawn = torch.randperm(len(group), generator=generator).tolist()
            for place, i in zip(group, drawn, strict=True):
                order[place] = group[i]
        if order != list(range(count)):
            return tuple(order)


def kendall_tau(order: Sequence[int]) -> float:
    """Rank correlation of an order with the ascending one: 1 - 2 (inversions) / (pairs), in [-1, 1].

    1 for the order as it was, -1 for the reverse, exactly; NaN for a single block, which has no order.

    Source:
        Kendall (1938), A new measure of rank correlation.
    """
    pairs = math.comb(len(order), 2)
    if pairs == 0:
        return math.nan
    return 1 - 2 * sum(first > second for first, second in combinations(order, 2)) / pairs
