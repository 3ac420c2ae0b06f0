"""How many routes of each length lead from a network's input to its output, counted on the graph of one pass."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, combinations
from operator import or_
from typing import NamedTuple

from gradscope.instruments.junctions.finder import Found
from gradscope.instruments.junctions.graph import Graph, Node
from gradscope.instruments.junctions.junction import Edge

# Steps after which it counts as unknown whether crossings tell routes apart.
_LONGEST_SEARCH = 500_000


class Step(NamedTuple):
    """One way on from a value towards the input.

    Attributes:
        variable: Number of the crossing that it makes; None if it crosses nothing.
        values: The values that it leads to: a branch is one function of all of them.
    """

    variable: int | None
    values: tuple[Node, ...]


@dataclass(frozen=True)
class Routes:
    """What is left of a graph when all but its counted junctions is taken for one function.

    Attributes:
        values: The counted sums and concatenations, operands first.
        steps: Per value, the steps from it.
        outputs: The values that the output is computed from.
        sources: The sources at which routes end.
    """

    values: tuple[Node, ...]
    steps: dict[Node, tuple[Step, ...]]
    outputs: tuple[Node, ...]
    sources: frozenset[Node]

    def total(self) -> int:
        """The number of routes of all lengths."""
        return self._at(0)

    def counts(self) -> list[int]:
        """The number of routes through k branches, k = 0, 1, ..., exact; [0] if no route leads to the sources."""
        # All coefficients of a polynomial in one whole number, t being a power of two that none of them reaches.
        bits = self.total().bit_length() + 1
        packed = self._at(bits)
        size = -(-packed.bit_length() // bits)
        digits = packed.to_bytes(-(-size * bits // 8) + 8, "little")
        return [_digit(digits, place * bits, bits) for place in range(size)] or [0]

    def one_to_one(self) -> bool:
        """Whether it is certain that two different routes differ in the branches that they cross.

        True for chains and dense nets. Two ways on from a value are told apart if all routes by the one cross some
        branch that no route by the other can. False where that does not hold, or would take too long to find out.
        """
        crossed = dict.fromkeys(self.sources, 0)
        steps = 0
        for value, ways in ((value, [*self._ways(value, crossed)]) for value in (*self.values, None)):
            for (one, first), (other, second) in combinations(ways, 2):
                met_by_one, met_by_other = one | crossed[first], other | crossed[second]
                steps += 1
                if one & ~met_by_other or other & ~met_by_one:
                    continue
                steps += len(self.values)
                if steps > _LONGEST_SEARCH:
                    return False
                if not self._leaves(first, met_by_other, crossed) and not self._leaves(
                    second, met_by_one, crossed
                ):
                    return False
            if value is not None and ways:
                crossed[value] = reduce(or_, (own | crossed[target] for own, target in ways))
        return True

    def _ways(self, value: Node | None, crossed: Collection[Node]) -> Iterator[tuple[int, Node]]:
        """Each way on from a value (None: the output) towards the sources: what it crosses, as a bit, and its end."""
        for variable, targets in (Step(None, self.outputs),) if value is None else self.steps[value]:
            yield from ((0 if variable is None else 1 << variable, t) for t in targets if t in crossed)

    def _leaves(self, start: Node, allowed: int, crossed: Collection[Node]) -> bool:
        """Whether every route from a value crosses a branch that is not among the allowed."""
        waiting, seen = [start], {start}
        for value in waiting:
            if value in self.sources:
                return False
            for variable, targets in self.steps[value]:
                if variable is None or allowed >> variable & 1:
                    fresh = [target for target in targets if target in crossed and target not in seen]
                    seen.update(fresh)
                    waiting.extend(fresh)
        return True

    def _at(self, bits: int) -> int:
        """The generating function of the routes at t = 2^bits."""
        left: dict[Node, int] = dict.fromkeys(self.outputs, 1)
        for steps in self.steps.values():
            for _, targets in steps:
                for target in targets:
                    left[target] = left.get(target, 0) + 1
        routes: dict[Node, int] = dict.fromkeys(self.sources, 1)

        def through(targets: Iterable[Node]) -> int:
            count = 0
            for target in targets:
                count += routes.get(target, 0)
                left[target] -= 1
                # Whole numbers of a thousand coefficients are large: none is kept longer than it is needed.
                if not left[target]:
                    routes.pop(target, None)
            return count

        for value in self.values:
            routes[value] = sum(
                through(targets) << (0 if variable is None else bits)
                for variable, targets in self.steps[value]
            )
        return through(self.outputs)


def contracted(
    graph: Graph, found: Sequence[Found], outputs: Iterable[Node], sources: Collection[Node]
) -> Routes:
    """The graph with only the given junctions left in it.

    At each of them a route takes one crossing, or passes without; anything else (sums without a skip, attention, blocks
    whose junctions are not among the given) is one function of the values it is computed from, which gives one
    route to each of these values, however many ways lead there.

    Args:
        graph: The graph of one forward pass.
        found: The junctions to count, with crossings.
        outputs: The nodes of the output.
        sources: Sources at which routes end; routes to other ones are not counted.
    """
    numbers: dict[Edge, int] = {}
    for number, edges in enumerate(edges for junction in found for edges in junction.crossings):
        numbers.update(dict.fromkeys(edges, number))
    sums = {
        j.node: [*(e for edges in j.crossings for e in edges), *j.carries]
        for j in found
        if j.kind != "concat"
    }
    joined = {e.node for j in found if j.kind == "concat" for edges in j.crossings for e in edges}
    nearest: dict[Node, tuple[Node, ...]] = {}
    steps: dict[Node, tuple[Step, ...]] = {}
    for node in graph.order:
        if node in sums:
            steps[node] = _steps(sums[node], numbers, graph, nearest)
        elif node in joined:
            steps[node] = _steps(
                [Edge(node, slot) for slot, _ in graph.operands(node)], numbers, graph, nearest
            )
        ends = node in steps or node in graph.sources
        nearest[node] = (node,) if ends else _union(nearest[operand] for _, operand in graph.operands(node))
    read = _union(nearest[node] for node in outputs if node in nearest)
    return Routes(tuple(steps), steps, read, frozenset(sources) & graph.sources)


def _steps(
    edges: Iterable[Edge], numbers: Mapping[Edge, int], graph: Graph, nearest: Mapping[Node, tuple[Node, ...]]
) -> tuple[Step, ...]:
    targets: dict[int | None, list[Node]] = {}
    for edge in edges:
        operand = graph.inputs[edge.node][edge.slot][0]
        targets.setdefault(numbers.get(edge), []).extend(nearest.get(operand, ()))
    return tuple(Step(number, tuple(dict.fromkeys(values))) for number, values in targets.items())


def _union(sets: Iterable[tuple[Node, ...]]) -> tuple[Node, ...]:
    different = list(dict.fromkeys(sets))
    return different[0] if len(different) == 1 else tuple(dict.fromkeys(chain.from_iterable(different)))


def _digit(digits: bytes, start: int, bits: int) -> int:
    first, offset = divmod(start, 8)
    chunk = int.from_bytes(digits[first : first + (offset + bits + 7) // 8], "little")
    return (chunk >> offset) & ((1 << bits) - 1)
