"""The batch normalisation that decides how large a branch is, in blocks whose code says which it is."""

import pytest
import torch
from networks import NETWORKS
from torch import nn

from gradscope.instruments.junctions import trace
from gradscope.instruments.junctions.last_batch_norm import last_batch_norm_weights


def names_of(model, inputs):
    found = trace(model, model, inputs)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    return [tuple(named.get(id(w)) for w in weights) for weights in last_batch_norm_weights(model, found)]


def images():
    return torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("network", "last"), [("post-activation", "bn2"), ("out-of-place", "bn2"), ("pre-activation", "branch.1")]
)
def test_the_last_layer_of_a_branch_and_not_the_one_of_a_projection(network, last):
    assert names_of(NETWORKS[network].build(), images()) == [(f"{b}.{last}.weight",) for b in range(2, 8)]


class Gated(nn.Module):
    """Squeeze and excitation: the branch's layer is `main`; `gate` stands on one of two ways only."""

    def __init__(self):
        super().__init__()
        self.main, self.gate = nn.BatchNorm2d(2), nn.BatchNorm1d(2)
        self.conv, self.weigh = nn.Conv2d(2, 2, 1), nn.Linear(2, 2)

    def forward(self, x):
        inside = self.main(self.conv(x))
        return x + inside * self.gate(self.weigh(inside.mean((2, 3)))).sigmoid()[:, :, None, None]


class Two(nn.Module):
    """Two branches behind one shared layer, which is inside both; only the first has one of its own."""

    def __init__(self):
        super().__init__()
        self.shared, self.own = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        normed = self.shared(x)
        return x + (self.own(self.first(normed)) + self.second(normed))


class Without(nn.Module):
    """No weight, or a layer before the fork only."""

    def __init__(self):
        super().__init__()
        self.before, self.bare, self.linear = (
            nn.BatchNorm1d(3),
            nn.BatchNorm1d(3, affine=False),
            nn.Linear(3, 3),
        )

    def forward(self, x):
        x = self.before(x)
        return x + self.bare(self.linear(x))


@pytest.mark.parametrize(
    ("block", "shape", "expected"),
    [
        (Gated, (4, 2, 3, 3), [("main.weight",)]),
        (Two, (4, 3), [("own.weight", "shared.weight")]),
        (Without, (4, 3), [(None,)]),
    ],
)
def test_every_way_through_the_branch_has_to_pass_it(block, shape, expected):
    assert names_of(block().eval(), torch.randn(shape)) == expected


def test_a_block_that_a_second_input_feeds_alone_takes_no_layer_of_another_one():
    class Both(nn.Module):
        """The second stream has a block of its own before it meets the first."""

        def __init__(self):
            super().__init__()
            self.norm, self.first, self.second = nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, pair):
            x, y = pair
            y = y + self.second(y)
            x = x + self.norm(self.first(x))
            return x * y

    names = names_of(Both().eval(), (torch.randn(4, 3), torch.randn(4, 3)))
    assert ("norm.weight",) in names and set(names) <= {("norm.weight",), (None,)}
