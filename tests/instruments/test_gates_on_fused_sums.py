"""Gates where the operands meet in something else than a plain sum: concatenations, fused sums, stacks."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS, mlp
from torch import nn

from gradscope.instruments.gates import cut_skips, lesion, scale_branches, stochastic_depth
from gradscope.instruments.junctions import junctions

LAYERS = 3


class Listed(nn.Module):
    """A dense block that keeps a list and concatenates all of it before each layer, as torchvision does."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([mlp(width, 2) for width in (4, 6, 8)])
        self.out = nn.Linear(10, 3)

    def forward(self, x):
        values = [x]
        for layer in self.layers:
            values.append(layer(torch.cat(values, 1)).tanh())
        return self.out(torch.cat(values, 1))


def seeded(make):
    torch.manual_seed(0)
    return make().double().eval(), torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).double()


def dense_forward(model, x, branch):
    for place, layer in enumerate(model.layers):
        x = torch.cat([x, branch(place, layer(x).tanh())], dim=1)
    return model.out(x)


def mean(value):
    return value.mean(dim=0, keepdim=True).expand_as(value)


@pytest.mark.parametrize("make", [NETWORKS["dense"].make, Listed])
def test_branches_that_are_concatenated_are_gated_wherever_they_are_read(make):
    model, x = seeded(make)
    found = junctions(model, x)
    assert [j.kind for j in found] == ["concat"] * LAYERS
    before = snapshot(model)
    for hit in ([0], [2], [0, 1, 2]):
        chosen = [found[place] for place in hit]
        for gate, change in (
            (lesion(model, chosen), torch.zeros_like),
            (lesion(model, chosen, kind="mean"), mean),
            (scale_branches(model, chosen, -0.5), lambda value: value * -0.5),
            (stochastic_depth(model, chosen, survival=[0.3] * len(hit)), lambda v: v * 0.3),
        ):
            expected = dense_forward(model, x, lambda i, v, h=hit, c=change: c(v) if i in h else v)
            with gate:
                torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)
    assert_as_found(model, before)


@pytest.mark.parametrize("make", [NETWORKS["dense"].make, Listed])
def test_a_dropped_layer_of_a_dense_block_is_dropped_wherever_it_is_read(make):
    model, x = seeded(make)
    found = junctions(model, x)
    outcomes = [dense_forward(model, x, lambda i, v, k=kept: v * (k >> i & 1)) for kept in range(8)]
    seen = set()
    with stochastic_depth(model, found, survival=[0.5] * LAYERS, training=True):
        for _ in range(12):
            output = model(x)
            near = [place for place, outcome in enumerate(outcomes) if torch.allclose(outcome, output)]
            assert len(near) == 1
            seen.add(near[0])
    assert len(seen) > 3


def test_the_skip_of_a_concatenation_is_zeroed():
    model, x = seeded(NETWORKS["dense"].make)
    found = junctions(model, x)
    state = model.layers[0](x).tanh()
    state = torch.cat([torch.zeros_like(x), state], dim=1)
    state = torch.cat([state, model.layers[1](state).tanh()], dim=1)
    state = torch.cat([torch.zeros_like(state), model.layers[2](state).tanh()], dim=1)
    with cut_skips(model, [found[0], found[2]]):
        assert torch.equal(model(x), model.out(state))


class Fused(nn.Module):
    """x + tanh(x A) W by one operation or another."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation
        self.first, self.last = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 4) / 2)
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x, branch=lambda value: value, skip=lambda value: value, plainly=False):
        inner = self.first(x).tanh()
        if plainly:
            value = inner @ self.last * (self.scale if self.operation == "addcmul" else 1)
            weights = (0.7, 0.3) if self.operation == "lerp" else (1.0, 1.0)
            return weights[0] * skip(x) + weights[1] * branch(value)
        if self.operation == "addmm":
            return torch.addmm(x, inner, self.last)
        if self.operation == "addcmul":
            return torch.addcmul(x, inner @ self.last, self.scale)
        if self.operation == "lerp":
            return torch.lerp(x, inner @ self.last, 0.3)
        if self.operation == "alpha":
            return torch.add(x, inner @ self.last / 2, alpha=2)
        return torch.stack([x, inner @ self.last]).sum(dim=0)


@pytest.mark.parametrize("operation", ["addmm", "addcmul", "lerp", "stack", "alpha"])
def test_fused_sums(operation):
    model, x = seeded(lambda: Fused(operation))
    found = junctions(model, x)
    assert [j.kind for j in found] == ["identity"]
    torch.testing.assert_close(model(x), model(x, plainly=True))
    for gate, changes in (
        (lesion(model, found), {"branch": torch.zeros_like}),
        (lesion(model, found, kind="mean"), {"branch": mean}),
        (scale_branches(model, found, -0.5), {"branch": lambda value: value * -0.5}),
        (
            stochastic_depth(model, found, survival=0.3),
            {"branch": lambda value: value * 0.3},
        ),
        (cut_skips(model, found), {"skip": torch.zeros_like}),
    ):
        expected = model(x, plainly=True, **changes)
        with gate:
            torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)
