"""Which orders of a network's blocks are looked at: random swaps, neighbours, and what was done to painters."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from gradscope.instruments.gates.interchangeable import groups_of, runs_of
from gradscope.instruments.gates.positions import positions
from gradscope.instruments.gates.rewiring import parallel, reorder, repeat, skipped
from gradscope.problem import Problem
from gradscope.studies.lesions.forward import refuse_other_forward, refuse_scripted
from gradscope.studies.reordering.orders import (
    can_differ,
    exchanged,
    reversed_within,
    shuffled_within,
    spread,
    swapped,
)

INTERVENTIONS = ("reverse", "random order", "middle repeat", "parallel", "looped parallel", "skip")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a network in the order of the forward pass.

    Attributes:
        names: Of every block; one that belongs to no group stays where it is, and goes by its junction's name.
        groups: Places of the blocks that can change places with each other.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]

    def middles(self, ends: int) -> tuple[tuple[int, ...], ...]:
        """The groups without `ends` blocks at either end, where two or more are left."""
        cut = [group[ends : len(group) - ends] for group in self.groups]
        return tuple(group for group in cut if len(group) > 1)


@dataclass(frozen=True)
class Arrangement:
    """One way to run the blocks, and the row it makes.

    Attributes:
        intervention: `swaps`, `neighbour swap` or one of `INTERVENTIONS`.
        order: Which block runs at each place, [blocks]; None where blocks are repeated, averaged or skipped.
        places: For those: the places, group by group.
        loops: For `looped parallel`.
        swaps, draw, index: As in the study's frame.
        recalibrated: Whether measured with recalibrated statistics too.
    """

    intervention: str
    order: tuple[int, ...] | None
    places: tuple[tuple[int, ...], ...] = ()
    loops: int = 1
    swaps: int = -1
    draw: int = -1
    index: int = -1
    recalibrated: bool = True

    @property
    def what_runs(self) -> tuple[Any, ...]:
        """Equal for arrangements that are the same network."""
        return (self.order,) if self.order is not None else (self.intervention, self.places, self.loops)

    def moved(self, blocks: Blocks) -> str:
        """What runs elsewhere, `a at b, b at a`; for what has no order, the blocks it is done to."""
        if self.order is None:
            return ", ".join(blocks.names[place] for group in self.places for place in group)
        return ", ".join(
            f"{blocks.names[source]} at {blocks.names[place]}"
            for place, source in enumerate(self.order)
            if source != place
        )

    def gate(self, model: nn.Module, blocks: Blocks) -> AbstractContextManager[object]:
        """The model arranged so, while the context lasts."""
        if self.order is not None:
            sources = {
                blocks.names[place]: blocks.names[self.order[place]]
                for group in blocks.groups
                for place in group
            }
            return reorder(model, [sources[position] for position in positions(model, list(sources))])
        stack = ExitStack()
        for group in self.places:
            names = [blocks.names[place] for place in group]
            if self.intervention == "middle repeat":
                stack.enter_context(repeat(model, names, names[len(names) // 2]))
            elif self.intervention == "skip":
                stack.enter_context(skipped(model, names))
            else:
                stack.enter_context(parallel(model, names, self.loops))
        return stack


def blocks_of(problem: Problem, groups: Sequence[Sequence[str]] | None) -> Blocks:
    """The blocks of a problem's network, with the groups found or given.

    Raises:
        ValueError: A scripted part; no group of two; given names that are not there, stand in two groups, or are
            of modules that do not run exactly once or have other shapes than the group's first.
    """
    inputs, _ = problem.first_batch()
    refuse_scripted(problem.model)
    traced, runs = runs_of(problem.model, problem.outputs, inputs)
    chosen = groups_of(traced, runs) if groups is None else [list(names) for names in groups]
    if not chosen:
        refuse_other_forward(problem, inputs, repeated=True)
        raise ValueError(
            f"{type(problem.model).__name__} has no two residual blocks of equal shape that could change places. Pass "
            "groups=[[names of modules that run one after the other], ...] if you know better."
        )
    for names in chosen:
        if len(names) < 2:
            raise ValueError(f"A group has at least two blocks that change places, got {names}.")
    moved = [name for names in chosen for name in names]
    positions(problem.model, moved)
    idle = [name for name in moved if name not in runs]
    if idle:
        raise ValueError(
            f"{idle[0]} does not run exactly once in a forward pass, so it has no place of its own."
        )
    for names in chosen:
        first = runs[names[0]]
        odd = next((n for n in names if not first.before == runs[n].before == runs[n].after), None)
        if odd is not None:
            raise ValueError(
                f"The blocks of a group map one shape to itself, but in the group of {names[0]}, which is given "
                f"{list(first.before)}, {odd} maps {list(runs[odd].before)} to {list(runs[odd].after)}. Leave it out."
            )
    began = {name: (runs[name].first, rank) for rank, name in enumerate(runs) if name in set(moved)}
    for junction in traced.junctions:
        inside = any(runs[name].holds(junction) for name in moved)
        if junction.level == 0 and junction.number is not None and not inside:
            began[junction.name] = (junction.number, -1)
    order = sorted(began, key=began.__getitem__)
    place = {name: i for i, name in enumerate(order)}
    return Blocks(tuple(order), tuple(tuple(sorted(place[name] for name in names)) for names in chosen))


def identity(blocks: Blocks) -> Arrangement:
    return Arrangement("", tuple(range(len(blocks.names))), swaps=0)


def planned(
    blocks: Blocks,
    *,
    swaps: Sequence[int] | None,
    draws: int,
    neighbours: bool,
    interventions: Sequence[str],
    ends: int,
    loops: int,
    recalibrate: Any,
    seed: int,
) -> list[Arrangement]:
    """Random swaps, swaps of neighbours, and the interventions, in this order.

    Raises:
        ValueError: An option out of range, swaps that can only undo each other, an unknown
            intervention, or no group with two blocks in the middle.
    """
    count = len(blocks.names)
    if swaps is None:
        numbers = [n for n in spread(sum(map(len, blocks.groups))) if can_differ(blocks.groups, n)]
    else:
        numbers = list(swaps)
    if any(number < 1 for number in numbers) or draws < 1:
        raise ValueError(f"swaps and draws are at least 1, got swaps {numbers} and draws {draws}.")
    undone = [number for number in numbers if not can_differ(blocks.groups, number)]
    if undone:
        raise ValueError(
            f"Only two blocks here can change places, so exchanging them {undone[0]} times changes nothing. Leave "
            f"{undone[0]} out of swaps, got {numbers}."
        )
    if recalibrate not in (True, False, "half"):
        raise ValueError(f"recalibrate is True, False or 'half' (of the draws), got {recalibrate!r}.")
    unknown = [name for name in interventions if name not in INTERVENTIONS]
    if unknown:
        raise ValueError(f"interventions are {', '.join(INTERVENTIONS)}, got {unknown[0]!r}.")
    middles = blocks.middles(ends) if ends >= 0 else ()
    if interventions and not middles:
        raise ValueError(
            f"No group has two blocks left when {ends} stay at either end; groups have "
            f"{[len(group) for group in blocks.groups]}. Pass a smaller ends=, at least 0."
        )
    renewed = (draws + 1) // 2 if recalibrate == "half" else draws if recalibrate else 0
    generator = torch.Generator().manual_seed(seed)
    plan = [
        Arrangement(
            "swaps",
            swapped(count, blocks.groups, number, generator),
            swaps=number,
            draw=draw,
            recalibrated=draw < renewed,
        )
        for number in numbers
        for draw in range(draws)
    ]
    always = bool(recalibrate)
    if neighbours:
        pairs = [pair for group in blocks.groups for pair in pairwise(group)]
        plan += [
            Arrangement(
                "neighbour swap", exchanged(count, [pair]), swaps=1, index=pair[0], recalibrated=always
            )
            for pair in pairs
        ]
    for name in interventions:
        if name == "reverse":
            plan.append(Arrangement(name, reversed_within(count, middles), recalibrated=always))
        elif name == "random order":
            plan += [
                Arrangement(
                    name,
                    shuffled_within(count, middles, generator),
                    draw=draw,
                    recalibrated=draw < renewed,
                )
                for draw in range(draws)
            ]
        else:
            times = loops if name == "looped parallel" else 1
            plan.append(Arrangement(name, None, middles, times, recalibrated=always))
    return plan
