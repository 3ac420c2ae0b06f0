"""A layer or a function between two linear layers."""

from collections.abc import Callable

import torch
from cases import classes
from torch import Tensor, nn

from gradscope.problem import Problem


class Applied(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def between(layer: nn.Module | Callable[[Tensor], Tensor]) -> Problem:
    """A layer, or a function, between two linear layers."""
    torch.manual_seed(0)
    inner = layer if isinstance(layer, nn.Module) else Applied(layer)
    return classes(nn.Sequential(nn.Linear(4, 5), inner, nn.Linear(5, 3)), 4)
