"""One forward pass kept alive: where its backward begins and where gradients are wanted."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


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


@dataclass(frozen=True)
class LiveGraph:
    """The graph of one forward pass.

    Attributes:
        loss: Scalar with a graph.
        targets: Where the gradient is wanted.
    """

    loss: Tensor
    targets: tuple[Target, ...]

    def backward(self, seed: float = 1.0) -> list[Tensor | None]:
        """The gradient at each target for a cotangent of the loss; None where the loss does not depend on it."""
        cotangent = torch.full_like(self.loss, seed)
        places: list[Any] = [target.place for target in self.targets]
        return list(
            torch.autograd.grad(self.loss, places, cotangent, retain_graph=True, allow_unused=True)
        )

    def empty(self, *leading: int) -> list[Tensor]:
        """Room for results, [*leading, *shape] in float64, for each target."""
        return [
            torch.zeros((*leading, *target.shape), dtype=torch.float64, device=target.device)
            for target in self.targets
        ]
