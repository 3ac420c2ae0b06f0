"""A unit delay on every branch edge: backward pass k emits the gradient through k branches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.junctions import Edge


class DelayLine:
    """Delays on edges of one autograd graph, for as many backward passes as there are lengths.

    In each pass, the hook on an edge keeps what arrives and hands on what arrived in the pass before
    (zeros in the first). Seeded with the cotangent in pass 0 and with zeros after, pass k therefore
    carries exactly the gradient that has crossed k of the edges.
    """

    def __init__(self, scale: Sequence[float]) -> None:
        self.scale = list(scale)
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.crossed = 0

    def hook(self, place: int, edges: Sequence[Edge]) -> Callable[[Any, Any], tuple[Tensor | None, ...]]:
        """A node hook that delays the slots `edges` of one node; `place` numbers the junction."""
        slots = {edge.slot for edge in edges}

        def delay(inputs: tuple[Tensor | None, ...], outputs: Any) -> tuple[Tensor | None, ...]:
            return tuple(
                self._delayed(place, id(edges[0].node), slot, gradient) if slot in slots else gradient
                for slot, gradient in enumerate(inputs)
            )

        return delay

    def _delayed(self, place: int, node: int, slot: int, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:
            return None
        functorch = torch._C._functorch
        if functorch.is_batchedtensor(gradient) or functorch.is_legacy_batchedtensor(gradient):
            raise RuntimeError(
                "A delay line cannot run inside a batched backward: the batch hides which pass is which, and the "
                "delay would be ignored without any error. Call autograd.grad once for each path length."
            )
        before = self.kept.get((node, slot))
        self.kept[node, slot] = gradient * self.scale[place]
        self.crossed += 1
        return torch.zeros_like(gradient) if before is None else before


@contextmanager
def delays(edges: Sequence[Sequence[Edge]], scale: Sequence[float] | None = None) -> Iterator[DelayLine]:
    """Put a unit delay on the given edges, one group for each junction, while the block lasts.

    Args:
        edges: Edges of a live autograd graph (`Trace.branch_edges`).
        scale: One factor per group that multiplies what crosses it: random signs, or a power of two
            against underflow. Default: ones.
    """
    line = DelayLine(scale if scale is not None else [1.0] * len(edges))
    with ExitStack() as stack:
        for place, group in enumerate(edges):
            by_node: dict[Any, list[Edge]] = {}
            for edge in group:
                by_node.setdefault(edge.node, []).append(edge)
            for node, at_node in by_node.items():
                stack.callback(node.register_hook(line.hook(place, at_node)).remove)
        yield line
        line.kept.clear()
