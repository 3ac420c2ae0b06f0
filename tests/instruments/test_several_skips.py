"""Sums of which several operands have no weights: all of these are the skip, and only what has weights is a branch."""

from contextlib import ExitStack

import pytest
import torch
from crossing_nets import Switch
from networks import Written, mlp, stack
from torch import Tensor, nn

from gradscope.instruments.gates import cut_skips, lesion
from gradscope.instruments.junctions import junctions, trace


def pool(x: Tensor) -> Tensor:
    return nn.functional.avg_pool1d(x.unsqueeze(1), 3, 1, 1).squeeze(1)


def in_place(x: Tensor, f: Tensor) -> Tensor:
    total = x.clone()
    total += pool(x)
    total += f
    return total


# The skip written out beside each.
SUMS = {
    "twice": (lambda x, f: x + x + f, lambda x: 2 * x),
    "twice, one after": (lambda x, f: x + f + x, lambda x: 2 * x),
    "pooled beside": (lambda x, f: x + pool(x) + f, lambda x: x + pool(x)),
    "bent beside": (lambda x, f: x + (f + x.sin()), lambda x: x + x.sin()),
    "scaled beside": (lambda x, f: x + f + 0.1 * x, lambda x: 1.1 * x),
    "taken away": (lambda x, f: x + (f - x), lambda x: 0 * x),
    "mean taken away": (lambda x, f: x - x.mean(1, keepdim=True) + f, lambda x: x - x.mean(1, keepdim=True)),
    "neither as it is": (lambda x, f: 2 * x + pool(x) + f, lambda x: 2 * x + pool(x)),
    "Python's sum": (lambda x, f: sum([x, pool(x), f]), lambda x: x + pool(x)),
    "stacked": (lambda x, f: torch.stack([x, pool(x), f]).sum(0), lambda x: x + pool(x)),
    "in place": (in_place, lambda x: x + pool(x)),
}


class Block(nn.Module):
    def __init__(self, join) -> None:
        super().__init__()
        self.branch, self.join = nn.Sequential(mlp(4, 4), nn.Tanh(), Switch()), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.branch(x))


@pytest.mark.parametrize("name", SUMS)
def test_a_lesion_closes_the_branch_and_keeps_all_of_the_skip(name):
    join, skip = SUMS[name]
    model, x = Written(join).double(), torch.randn(3, 4, dtype=torch.float64)
    (found,) = junctions(model, x)
    assert (found.kind, found.counted, found.outermost) == ("nonparam-skip", True, True)
    assert (len(found.branches), len(found.skips)) == (1, 2)
    with lesion(model, found):
        torch.testing.assert_close(model(x), skip(x))
    with cut_skips(model, found):
        torch.testing.assert_close(model(x), model.branch(x))


@pytest.mark.parametrize("name", SUMS)
def test_whatever_crosses_no_branch_is_carried(name):
    """With some crossings closed to the gradient, it is that of the network with those branches detached."""
    model = nn.Sequential(*stack(lambda: Block(SUMS[name][0]), 2)).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    switches = [module for module in model.modules() if isinstance(module, Switch)]
    found = trace(model, lambda given: model(given).square().sum(), x)
    assert found.routes().counts() == [1, 2, 1] and found.routes().one_to_one() and found.is_chain
    for shut in ([], [0], [1], [0, 1]):
        for place, switch in enumerate(switches):
            switch.on = place not in shut
        (expected,) = torch.autograd.grad(model(x).square().sum(), x)
        with ExitStack() as hooks:
            for node, slot in (edge for place in shut for edges in found.crossings[place] for edge in edges):

                def close(inputs, outputs, slot=slot):
                    return tuple(None if place == slot else g for place, g in enumerate(inputs))

                hooks.callback(node.register_hook(close).remove)
            (actual,) = torch.autograd.grad(found.output, found.source, retain_graph=True)
        torch.testing.assert_close(actual, expected)


def test_several_branches_beside_several_skips():
    model = Written(lambda x, f: x + pool(x) + f + f.sin())
    (found,) = junctions(model, torch.randn(3, 4))
    assert (len(found.branches), len(found.skips)) == (2, 2)


def test_a_candidate_layer_of_architecture_search():
    """Skip, pooling and convolutions weighted by a softmax of free parameters: two skips and two branches."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixture = nn.Parameter(torch.zeros(4))
            self.one, self.two = nn.Linear(4, 4), mlp(4, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            choices = (x, pool(x), self.one(x), self.two(x))
            weights = self.mixture.softmax(0)
            return sum(weight * choice for weight, choice in zip(weights, choices, strict=True))

    model, x = Mixed(), torch.randn(3, 4)
    (found,) = junctions(model, x)
    assert (found.kind, len(found.branches), len(found.skips)) == ("nonparam-skip", 2, 2)
    with lesion(model, found):
        torch.testing.assert_close(model(x), (x + pool(x)) / 4)


def test_a_sum_with_a_stream_of_its_own_stays_whole_inside_a_longer_skip():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = mlp(4, 4), mlp(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return x + (h + pool(h) + self.second(h))

    found = junctions(Inner(), torch.randn(3, 4))
    assert [(j.kind, j.level, len(j.branches), len(j.skips)) for j in found] == [
        ("nonparam-skip", 1, 1, 2),
        ("identity", 0, 1, 1),
    ]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2, dim=-1)
    return first, second


class NoJunction(nn.Module):
    """A layer before and one behind a sum of terms without weights between them."""

    def __init__(self, mix) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(4, 4), mix, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mix(self.first(x)))


WEIGHTLESS = {
    "rotary": lambda q: q * torch.full((4,), 0.6) + torch.cat([-halves(q)[1], halves(q)[0]], -1) * 0.8,
    "mixup": lambda h: 0.7 * h + 0.2 * h.flip(0) + 0.1 * h.roll(1, 0),
    "standardised": lambda h: (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True) + 0.1 * h,
    "pooled": lambda h: pool(h) - h + pool(pool(h)),
    "polynomial": lambda h: 0.5 * h * (1 + torch.tanh(0.8 * (h + 0.04 * h**3))) + h.square(),
}


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_without_weights_there_is_no_junction(name):
    assert len(junctions(NoJunction(WEIGHTLESS[name]), torch.randn(5, 4))) == 0


def test_squared_distances_have_no_skip():
    def distances(h: Tensor) -> Tensor:
        squares = h.square().sum(-1, keepdim=True)
        return squares + squares.T - 2 * h @ h.T

    found = junctions(NoJunction(distances), torch.randn(5, 4))
    assert [(j.kind, j.counted) for j in found] == [("branches", False)]


def test_streams_that_are_mixed_with_fixed_numbers_have_no_skip():
    """Two streams that read one branch: neither of their sums is all that becomes of it."""

    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(mlp(4, 4) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            one, other = x, 0.5 * x
            for layer in self.layers:
                new = layer(0.6 * one + 0.4 * other).tanh()
                one, other = 0.9 * one + 0.1 * other + new, 0.2 * one + 0.8 * other + 0.5 * new
            return one + other

    assert not any(junction.counted for junction in junctions(Streams(), torch.randn(3, 4)))
