"""A unit delay on every branch edge: backward pass k emits the gradient through k branches."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.gates.polynomial import Gate, Index, Powers
from gradscope.instruments.junctions import Edge
from gradscope.instruments.junctions.graph import Node

ONE_LENGTH = Powers((0,))


class DelayLine:
    """Gates on edges of one autograd graph, for one backward pass for each coefficient.

    In each pass, the hook on an edge keeps what arrives and hands on what arrived in the pass before
    (zeros in the first). Seeded with the cotangent in pass 0 and with zeros after, pass k therefore
    carries exactly the gradient that has crossed k of the edges. With several variables the passes are the
    exponents in lexicographic order, and `before` is one less in the edge's own variable.

    Attributes:
        crossed: How often a cotangent met a gate.
    """

    def __init__(self, gates: Mapping[Edge, Gate], powers: Powers) -> None:
        self.gates = gates
        self.powers = powers
        self.crossed = 0
        self._kept: dict[tuple[Edge, Index], Tensor] = {}
        self._index: Index = (0,) * len(powers.degrees)
        self._member = 0
        self._lift = 1.0

    def begin(self, index: Index, member: int = 0, lift: float = 1.0) -> None:
        """Say which pass comes next.

        Args:
            index: Exponents of the coefficient that it carries; in lexicographic order within one run.
            member: Which of several runs with factors of their own.
            lift: Multiplies what is handed on from earlier passes, so that coefficient k leaves multiplied by the
                lifts of all passes up to its own: against underflow.
        """
        if not any(index):
            self._kept.clear()
        self._index, self._member, self._lift = index, member, lift

    def largest(self) -> float:
        """The largest absolute number among what was kept; 0 if nothing was, infinite if one is not finite."""
        sizes = [kept.abs().amax() for kept in self._kept.values() if kept.numel()]
        largest = float(torch.stack(sizes).amax()) if sizes else 0.0
        return math.inf if math.isnan(largest) else largest

    def hook(self, node: Node, slots: Mapping[int, Edge]) -> Callable[[Any, Any], tuple[Tensor | None, ...]]:
        """A hook that gates the given slots of one node."""

        def gate(inputs: tuple[Tensor | None, ...], outputs: Any) -> tuple[Tensor | None, ...]:
            return tuple(
                self._gated(slots[slot], gradient) if slot in slots and gradient is not None else gradient
                for slot, gradient in enumerate(inputs)
            )

        return gate

    def _gated(self, edge: Edge, gradient: Tensor) -> Tensor:
        refuse_batched(gradient)
        self.crossed += 1
        gate = self.gates[edge]
        if gate.variable is None:
            return gradient * (gate.constant * gate.of(self._member))
        below = self.powers.below(self._index, gate.variable)
        before = None if below is None else self._kept.pop((edge, below), None)
        factor = gate.of(self._member)
        if self._index[gate.variable] < self.powers.degrees[gate.variable]:
            # A copy, because the engine may add to its own tensor in place.
            self._kept[edge, self._index] = gradient.clone() if factor == 1 else gradient * factor
        if before is not None and self._lift != 1:
            before = before * self._lift
        if gate.constant:
            now = gradient * (gate.constant * factor)
            return now if before is None else now + before
        return torch.zeros_like(gradient) if before is None else before

    def clear(self) -> None:
        self._kept.clear()


def refuse_batched(gradient: Tensor) -> None:
    """Raise if autograd runs several cotangents at once, unseen by this hook."""
    functorch = torch._C._functorch
    if functorch.is_batchedtensor(gradient) or functorch.is_legacy_batchedtensor(gradient):
        raise RuntimeError(
            "A delay line cannot run inside a batched backward: the batch hides which pass is which, and the "
            "delay would be ignored without any error. Call autograd.grad once for each path length."
        )


@contextmanager
def delays(gates: Mapping[Edge, Gate], powers: Powers = ONE_LENGTH) -> Iterator[DelayLine]:
    """Put gates on edges of a live autograd graph while the block lasts.

    Args:
        gates: For each edge (`Trace.crossings`, `Trace.carries`) what multiplies the cotangent there.
        powers: The coefficients wanted.
    """
    line = DelayLine(gates, powers)
    by_node: dict[Node, dict[int, Edge]] = {}
    for edge in gates:
        by_node.setdefault(edge.node, {})[edge.slot] = edge
    with ExitStack() as stack:
        stack.callback(line.clear)
        for node, slots in by_node.items():
            stack.callback(node.register_hook(line.hook(node, slots)).remove)
        yield line
