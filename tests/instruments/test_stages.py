"""Stages are read off the graph, so that they do not depend on the values of one batch."""

import pytest
import torch
from networks import Residual, mlp
from torch import Tensor, nn

from gradscope.instruments.junctions import trace
from gradscope.instruments.stages import Stages, stages_of
from gradscope.instruments.streams import streams


class Between(nn.Module):
    """Three blocks with a function between each two."""

    def __init__(self, between) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Residual(mlp(4, 4)) for _ in range(3)).double()
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        self.states = []
        for block in self.blocks:
            x = self.between(block(x))
            self.states.append(x.detach().clone())
        return x


def stages(model: nn.Module, x: Tensor) -> Stages:
    found = [j for j in trace(model, model, x).junctions if j.graded]
    with streams(model, found) as heard:
        model(x.clone().requires_grad_())
    told = stages_of(heard)
    for place, state in enumerate(getattr(model, "states", [])):
        if told.found[place]:
            assert torch.equal(told.output(heard, place).nan_to_num(), state.nan_to_num())
    return told


def constant(h: Tensor) -> Tensor:
    return h + torch.ones(4, dtype=torch.float64)


FUNCTIONS = {
    "nothing": (lambda h: h, ("total",) * 3),
    "a copy": (lambda h: h.clone(), ("after",) * 3),
    "a copy behind a view": (lambda h: h.flatten().clone().view(h.shape), ("total",) * 3),
    "views": (lambda h: h.view(len(h), 2, 2).flatten(start_dim=1), ("total",) * 3),
    "turned and back": (lambda h: h.T.T, ("total",) * 3),
    "turned over": (lambda h: h.view(len(h), 2, 2).mT.reshape(len(h), 4), ("next", "next", "")),
    "a constant": (constant, ("after",) * 3),
    "a constant behind a view": (lambda h: constant(h.T.T), ("next", "next", "")),
    "ReLU": (torch.relu, ("after",) * 3),
    "ReLU in place": (lambda h: h.relu_(), ("after",) * 3),
    "ReLU and a copy": (lambda h: h.relu().clone(), ("after",) * 3),
    "two functions": (lambda h: h.relu().tanh(), ("next", "next", "")),
}


# A constant state is the same turned over, and infinity the same with 1 added.
DRAWN_ONLY = ("turned over", "a constant behind a view")
FILLS = (None, 9.0, float("nan"), float("inf"))


@pytest.mark.parametrize(
    ("name", "fill"), [(n, fill) for n in FUNCTIONS for fill in FILLS[: 1 if n in DRAWN_ONLY else None]]
)
def test_what_a_block_hands_on_is_told_by_the_graph(name, fill):
    """Also where all sums are positive, so that a ReLU changes nothing, or are no numbers."""
    between, found = FUNCTIONS[name]
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if fill is not None:
        x = torch.full_like(x[:1], fill)
    told = stages(Between(between), x)
    assert told.stage == (0, 0, 0) and told.found == found and told.last == 0


def test_stages_of_two_levels_are_told_apart():
    torch.manual_seed(0)
    outer = [Residual(nn.Sequential(Residual(mlp(4, 4)), Residual(mlp(4, 4)))) for _ in range(2)]
    x = torch.randn(5, 4)
    told = stages(nn.Sequential(nn.Linear(4, 4), *outer, nn.Linear(4, 2)), x)
    # In forward order: two inner blocks, then the outer one they are the branch of, and again.
    assert told.stage == (1, 1, 0, 2, 2, 0) and told.last == 0
    assert told.follower == (1, None, 5, 4, None, None)
