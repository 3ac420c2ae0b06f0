"""Which part of a graph leads to the targets, and in which order it is walked."""

import heapq
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradscope.gradients.engines.graph import LiveGraph, Target
from gradscope.instruments.junctions.graph import Node

Place = tuple[Node, int]


class Ways:
    """All ways from the loss to the targets.

    Attributes:
        root: Where they begin.
        wanted: For each place at which a gradient arrives, the numbers of the targets that ask for it.
        slots: For each node on the ways, the operands by which they go on.
        operands: `next_functions` of those nodes.
    """

    def __init__(self, graph: LiveGraph) -> None:
        self.root: Place = place_of(graph.loss)
        self.wanted: dict[Place, list[int]] = {}
        for number, target in enumerate(graph.targets):
            self.wanted.setdefault(place_of(target), []).append(number)
        self.operands = graph.operands
        self.slots: dict[Node, tuple[int, ...]] = {}
        ends = {node for node, _ in self.wanted}
        for node, operands in self.operands.items():
            slots = tuple(slot for slot, (operand, _) in enumerate(operands) if operand in self.slots)
            if slots or node in ends:
                self.slots[node] = slots

    def nodes(self) -> Iterator[Node]:
        """Every node after all that use what it made; of those that could come, the last to run forward first."""
        if self.root[0] not in self.slots:
            return
        waiting: dict[Any, int] = dict.fromkeys(self.slots, 0)
        for node, slots in self.slots.items():
            for slot in slots:
                waiting[self.operands[node][slot][0]] += 1
        ready = [(-self.root[0]._sequence_nr(), 0, self.root[0])]
        count = 0
        while ready:
            _, _, node = heapq.heappop(ready)
            yield node
            for slot in self.slots[node]:
                operand: Any = self.operands[node][slot][0]
                waiting[operand] -= 1
                if waiting[operand] == 0:
                    count += 1
                    heapq.heappush(ready, (-operand._sequence_nr(), count, operand))


def place_of(target: Tensor | Target) -> Place:
    """The node and the number of its result at which the gradient of a tensor, an edge or a target arrives."""
    place = target.place if isinstance(target, Target) else target
    edge = get_gradient_edge(place) if isinstance(place, Tensor) else place
    return edge.node, edge.output_nr
