"""How many paths of each length there are between what is differentiated and the place of its gradient."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from gradscope.gradients.split import Paths
from gradscope.instruments.junctions import Edge
from gradscope.instruments.junctions.graph import Node

AT_PARAMETERS = "paths to the parameters begin at different blocks, so that no one number counts them"
AROUND = "a way leads around a junction, so paths are counted to the input only"
OFF_THE_WAY = "no way leads from this site to the input, from which on paths are counted"
MERGED = (
    "several paths cross the same branches (or that could not be excluded), so signs do not tell them apart"
)
UNSURE = (
    "paths to this place that cross the same branches, if there are any, are added before they are squared"
)
NO_PATH = "no path of this length"


@dataclass(frozen=True)
class Link:
    """One junction of a chain, as far as ways to the place of the gradient go.

    Attributes:
        carried: Whether one passes it without crossing a branch.
        branches: Numbers of the branches by which the others cross it.
    """

    carried: bool
    branches: tuple[int, ...]


@dataclass(frozen=True)
class Counts:
    """The paths of each length.

    Attributes:
        numbers: How many, for 0..n branches; None where they cannot be counted.
        reason: Why not; empty where they can.
        told_apart: Whether two different paths always differ in the branches they cross; None where that is unknown.
        links: In a chain, its junctions in forward order, without those that no path meets; else None.
    """

    numbers: tuple[int, ...] | None
    reason: str
    told_apart: bool | None
    links: tuple[Link, ...] | None

    def of(self, length: int) -> int | None:
        """The number of paths of one length; None where unknown."""
        return None if self.numbers is None else self.numbers[length]

    def none(self, length: int) -> bool:
        """Whether there is certainly no path of that length."""
        return self.numbers is not None and self.numbers[length] == 0


def counts_of(paths: Paths) -> Counts:
    """The paths from what is differentiated to the place of the gradient, counted on the graph."""
    apart = told_apart(paths)
    if paths.at == "parameters":
        return Counts(None, AT_PARAMETERS, apart, None)
    leading = _leading(paths)
    if leading is None:
        return Counts(None, OFF_THE_WAY, apart, None)
    if paths.is_chain:
        links = _links(paths, leading)
        numbers = _polynomial([(int(link.carried), len(link.branches)) for link in links])
        return Counts(_padded(numbers, paths.longest), "", True, links)
    if paths.at != "input":
        return Counts(None, AROUND, apart, None)
    return Counts(_padded(paths.found.routes(paths.junctions).counts(), paths.longest), "", apart, None)


def told_apart(paths: Paths) -> bool | None:
    """Whether two different paths to the place of the gradient always differ in the branches they cross.

    False if that could not be made sure of; None for places other than the input of a network that is no chain, where
    only paths to the input were looked at.
    """
    if paths.is_chain:
        return True
    if not paths.found.routes(paths.junctions).one_to_one():
        return False
    return True if paths.at == "input" else None


def signed_number(links: Sequence[Link], signs: Sequence[int]) -> list[int]:
    """The sum over all paths of each length of the product of the signs they cross: prod (carried + t sum signs).

    Args:
        links: Of a chain.
        signs: 1 or -1 for each branch.
    """
    return _polynomial([(int(link.carried), sum(signs[b] for b in link.branches)) for link in links])


def as_float(number: int) -> float:
    """A count as a float; infinite beyond the largest one (about 1,024 blocks)."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def square_root(number: int) -> float:
    """The square root of a count, which floats hold up to about 2,048 blocks."""
    return math.sqrt(number) if number < 2**1000 else as_float(math.isqrt(number))


def _polynomial(factors: Sequence[tuple[int, int]]) -> list[int]:
    """Coefficients of the product of a + b t, exact."""
    product = [1]
    for constant, slope in factors:
        longer = [constant * coefficient for coefficient in product] + [0]
        for power, coefficient in enumerate(product):
            longer[power + 1] += slope * coefficient
        product = longer
    return product


def _padded(numbers: Sequence[int], longest: int) -> tuple[int, ...]:
    return (*numbers, *([0] * (longest + 1 - len(numbers))))[: longest + 1]


def _leading(paths: Paths) -> set[Node] | None:
    """The nodes from which a way leads to the place of the gradient; None if that lies on no way to the input."""
    place = paths.graph.targets[0].place
    graph = paths.found.graph
    if isinstance(place, Tensor):
        return set(graph.order)
    leading: set[Node] = {place.node}
    for node in graph.order:
        if any(operand in leading for _, operand in graph.operands(node)):
            leading.add(node)
    return leading if place.node in graph.position else None


def _links(paths: Paths, leading: Collection[Node]) -> tuple[Link, ...]:
    """Which operands of each junction lead to the place of the gradient; none if it lies behind the last junction."""
    graph = paths.found.graph

    def leads(edges: Sequence[Edge]) -> bool:
        return any(graph.inputs[edge.node][edge.slot][0] in leading for edge in edges)

    links = []
    for junction, carries in zip(paths.junctions, paths.carries, strict=True):
        branches = tuple(
            number
            for number, branch in enumerate(paths.branches)
            if branch.junction.index == junction.index and leads(branch.edges)
        )
        carried = leads(carries)
        if carried or branches:
            links.append(Link(carried, branches))
    return tuple(links)
