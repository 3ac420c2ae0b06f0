"""Which blocks can change places: known for networks whose construction is known."""

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, Residual, mlp
from torch import nn

from gradscope.instruments.gates.interchangeable import interchangeable
from gradscope.instruments.gates.rewiring import reorder
from gradscope.nets import build

GROUPS = {
    "plain": [],
    "post-activation": [["4", "5"]],
    "frozen": [["4", "5"]],
    "pre-activation": [["4", "5"]],
    "pre-norm transformer": [["0", "1", "2"]],
    "parallel transformer": [["0", "1", "2"]],
    "encoder layers": [["0", "1"]],
    "multi-residual": [["2", "3", "4"]],
    "highway": [["2", "3", "4", "5"]],
    "padding": [],
    "inside a module": [["2", "3", "4"]],
    "shared weights": [],
    "dense": [],
    "long skip": [["2", "3"]],
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name):
    specimen = NETWORKS[name]
    model = used(specimen.build())
    before = snapshot(model)
    groups = interchangeable(model, specimen.inputs())
    assert groups == GROUPS[name]
    assert_as_found(model, before)
    for names in groups:
        with reorder(model, names[::-1]):
            model(specimen.inputs())


@pytest.mark.parametrize("activation", ["pre", "post"])
@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_stages_of_a_residual_network(activation, shortcut):
    model = build(
        "resnet", depth=20, width=2, channels=1, activation=activation, shortcut=shortcut, seed=0
    ).eval()
    expected = [["blocks.0", "blocks.1", "blocks.2"], ["blocks.4", "blocks.5"], ["blocks.7", "blocks.8"]]
    assert interchangeable(model, torch.randn(2, 1, 8, 8)) == expected


class Pair(nn.Module):
    """Two residual functions in one block, each in a module of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = Residual(mlp(4, 3, 4)), Residual(mlp(4, 3, 4))

    def forward(self, x):
        return self.two(self.one(x))


class Switched(Residual):
    """Called in another way than `Residual`."""

    def forward(self, x, active=True):
        return super().forward(x) if active else x


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Residual(mlp(4, 3, 4)), Residual(mlp(4, 3, 4))
        self.odd = Switched(mlp(4, 3, 4))
        self.pairs = nn.ModuleList([Pair(), Pair()])
        self.idle = Residual(mlp(4, 3, 4))

    def forward(self, x):
        x = self.odd(self.second(self.first(x)), active=True)
        for pair in self.pairs:
            x = pair(x)
        return x


def test_how_blocks_are_called_and_how_many_junctions_they_hold_tell_groups_apart():
    """Modules of any parent that run in a row are a group; those inside of grouped blocks are not one again."""
    model = Mixed()
    assert interchangeable(model, torch.randn(2, 4)) == [["first", "second"], ["pairs.0", "pairs.1"]]
