"""A backward pass through short paths only: delays on the branches of this step's own graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradscope.instruments.junctions.graph import Node
from gradscope.training.path_options import Step

_Key = tuple[int, int]


class _Delays:
    """The delays on the graphs of the forwards since the last backward, and what they keep between passes.

    In every pass, what arrives at a delay is kept, and what arrived in the pass before is handed on, zeros in the
    first. As each pass is seeded with the whole cotangent, pass K carries the gradient through at most K branches,
    and passes 0..K-1 need not compute more than what reaches the delays.
    """

    def __init__(self, network: str) -> None:
        self.network = network
        self.edges: dict[GradientEdge, None] = {}
        self.kept: dict[_Key, Tensor] = {}
        self.nodes = 0
        self.passes: int | None = None
        self.met = False
        self.last = False

    def hook(self, slots: frozenset[int]) -> Callable[[Any, Any], tuple[Tensor | None, ...]]:
        number = self.nodes
        self.nodes += 1

        def delay(inputs: tuple[Tensor | None, ...], outputs: Any) -> tuple[Tensor | None, ...]:
            return tuple(
                self._delayed((number, slot), gradient)
                if slot in slots and gradient is not None
                else gradient
                for slot, gradient in enumerate(inputs)
            )

        return delay

    def _delayed(self, key: _Key, gradient: Tensor) -> Tensor:
        if self.passes is None:
            raise RuntimeError(
                f"Inside short_paths, gradients of a forward of {self.network} in train mode are taken once, by "
                "step.backward(loss), before the next one. loss.backward() knows nothing of lengths; several forwards "
                "of one step go back together: step.backward(first + second)."
            )
        self.met = True
        if self.passes == 0:
            before = torch.zeros_like(gradient)
        elif key in self.kept:
            before = self.kept.pop(key)
        else:
            raise RuntimeError(
                f"The backward passes of one step through {self.network} took different ways, so lengths cannot be "
                "counted. Please report this model."
            )
        if not self.last:
            self.kept[key] = gradient
        return before


class DelayedStep(Step):
    """The steps of a training on short paths.

    Attributes:
        lengths: The most branches a path may cross.
        forwards: Forwards in train mode since the last backward.
    """

    def __init__(self, lengths: int, network: str) -> None:
        self.lengths = lengths
        self.forwards = 0
        self._network = network
        self._delays = _Delays(network)

    def delay(self, node: Node, slots: frozenset[int]) -> None:
        """Delay what leaves a node of the running forward's graph by these slots."""
        live = [slot for slot in slots if node.next_functions[slot][0] is not None]
        if live:
            self._delays.edges |= {GradientEdge(*node.next_functions[slot]): None for slot in live}
            node.register_hook(self._delays.hook(slots))

    def backward(self, loss: Tensor) -> None:
        """Add the gradient through at most `lengths` branches to `.grad`; the graph is freed, as by `loss.backward()`.

        Args:
            loss: Of the forwards in train mode since the last call; a scalar.

        Raises:
            RuntimeError: There was no such forward, or the loss does not depend on it.
        """
        delays, forwards = self._delays, self.forwards
        if not forwards:
            raise RuntimeError(
                f"step.backward(loss) needs a forward of {self._network} in train mode inside the block, and there was "
                "none since the last one. Call model.train() and make the forward in the block."
            )
        try:
            for number in range(self.lengths if delays.edges else 0):
                delays.passes = number
                torch.autograd.grad(loss, list(delays.edges), retain_graph=True, allow_unused=True)
                self._refuse_other(delays)
            delays.passes, delays.last = self.lengths, True
            loss.backward()
            self._refuse_other(delays)
            self.number += 1
        finally:
            self.close()

    def close(self) -> None:
        """Forget the forwards so far: gradients through their branches are refused from now on."""
        self._delays.passes = None
        self._delays.kept.clear()
        self._delays.edges.clear()
        self._delays, self.forwards = _Delays(self._network), 0

    def _refuse_other(self, delays: _Delays) -> None:
        if delays.edges and not delays.met:
            raise RuntimeError(
                f"No gradient met a residual branch, so this loss is not that of a forward of {self._network} in train "
                "mode inside the block. Pass the loss of the latest forward."
            )
