"""One forward pass kept alive: where its backward begins and where gradients are wanted."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradscope.gradients.engines.user_hooks import UserHooks
from gradscope.instruments.junctions.graph import Node


@dataclass(frozen=True)
class Target:
    """A place at which the gradient is wanted.

    Attributes:
        name: Empty for the input, else the site's or parameter's.
        place: What `torch.autograd.grad` takes as an input.
        shape: Of the gradient.
        device: Where it lies.
    """

    name: str
    place: Tensor | GradientEdge
    shape: tuple[int, ...]
    device: torch.device


class LiveGraph:
    """The graph of one forward pass.

    Attributes:
        loss: Scalar with a graph.
        targets: Where the gradient is wanted.
        hooks: What the model hooked in that pass, if that was watched.
        walked: Whether a walk over this graph has given autograd's own gradient.
        batched: Whether a batched backward pass has.
        linear: Whether Python code on the way is known to be linear.
    """

    def __init__(self, loss: Tensor, targets: tuple[Target, ...], hooks: UserHooks | None = None) -> None:
        self.loss = loss
        self.targets = targets
        self.hooks = hooks
        self.walked = False
        self.batched = False
        self.linear = False

    @cached_property
    def operands(self) -> dict[Node, tuple[tuple[Node | None, int], ...]]:
        """The `next_functions` of all nodes, operands first."""
        # Autograd makes this tuple anew each time it is asked for it.
        below: dict[Node, tuple[tuple[Node | None, int], ...]] = {}
        order: list[Node] = []
        stack: list[tuple[Any, bool]] = [(self.loss.grad_fn, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in below:
                below[node] = node.next_functions
                stack.append((node, True))
                stack += [(operand, False) for operand, _ in below[node] if operand is not None]
        return {node: below[node] for node in order}

    @cached_property
    def rounding(self) -> float:
        """The coarsest relative rounding on the way: models may cast to a lower precision inside."""
        kinds = {metadata.dtype for node in self.operands for metadata in node._input_metadata}
        return max(torch.finfo(kind).eps for kind in kinds if kind.is_floating_point)

    def backward(self, seed: float = 1.0) -> list[Tensor | None]:
        """The gradient at each target for a cotangent of the loss; None where the loss does not depend on it."""
        cotangent = torch.full_like(self.loss, seed)
        places: list[Any] = [target.place for target in self.targets]
        return list(torch.autograd.grad(self.loss, places, cotangent, retain_graph=True, allow_unused=True))

    @cached_property
    def ordinary(self) -> list[Tensor | None]:
        """The gradient at each target, found once; not to be changed."""
        return self.backward()

    def empty(self, *leading: int) -> list[Tensor]:
        """Room for results, [*leading, *shape] in float64, for each target."""
        return [
            torch.zeros((*leading, *target.shape), dtype=torch.float64, device=target.device)
            for target in self.targets
        ]
