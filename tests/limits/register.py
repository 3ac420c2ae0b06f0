"""Where the checks of the rows are listed, and the networks that several of them use."""

from collections.abc import Callable

import torch
from torch import nn

import gradscope as gs

CHECKS: dict[str, Callable[[], None]] = {}
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def row(context: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """List a check under the name in the first column of its row."""

    def note(check: Callable[[], None]) -> Callable[[], None]:
        assert context not in CHECKS, f"two checks for {context}"
        CHECKS[context] = check
        return check

    return note


def x() -> torch.Tensor:
    return torch.randn(6, 4)


class Block(nn.Module):
    """x + F(x), the sum written in a way that a subclass chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, inputs):
        return self.add(inputs, self.branch(inputs))

    def add(self, skip, branch):
        return skip + branch


class Dense(Block):
    """[x, F(x)]"""

    def add(self, skip, branch):
        return torch.cat([skip, branch], dim=1)


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, inputs):
        gate = self.gate(inputs).sigmoid()
        return gate * self.plain(inputs).tanh() + (1 - gate) * inputs


def net() -> nn.Sequential:
    return nn.Sequential(Block(), Block(), nn.Linear(4, 3))


def normalised() -> nn.Sequential:
    return nn.Sequential(Block(), nn.BatchNorm1d(4), nn.Linear(4, 3))


def sums(add: Callable) -> int:
    kind = type("Kind", (Block,), {"add": lambda self, skip, branch: add(skip, branch)})
    return len(gs.junctions(nn.Sequential(kind(), nn.Linear(4, 3)), x()))
