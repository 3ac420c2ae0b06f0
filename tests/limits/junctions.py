"""Rows of docs/limitations.md on kinds of junctions, and on what gates reach."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradscope as gs
from limits.register import Block, Dense, Highway, Y, row, x


@row("concatenations (DenseNet, U-Net)")
def _():
    model, inputs = nn.Sequential(Dense(), nn.Linear(8, 3)), x()
    (found,) = gs.junctions(model, inputs)
    assert found.kind == "concat" and found.counted
    with gs.lesion(model, found):
        closed = model(inputs)
    assert torch.equal(closed, model[1](torch.cat([inputs, torch.zeros(6, 4)], dim=1)))
    assert len(gs.path_gradients((model, (inputs, Y)))) == 2

    class Mirrored(Dense):
        def forward(self, inputs):
            return self.add(inputs, inputs.relu())

    assert len(gs.junctions(nn.Sequential(Mirrored(), nn.Linear(8, 3)), inputs)) == 0


@row("gated additions (highway)")
def _():
    class Both(Highway):
        def forward(self, inputs):
            return inputs * self.gate(inputs).sigmoid() + inputs * self.plain(inputs).tanh()

    model, inputs = nn.Sequential(Highway(), nn.Linear(4, 3)), x()
    (found,) = gs.junctions(model, inputs)
    assert found.kind == "gated" and found.counted
    parts, whole = gs.path_gradients((model, (inputs, Y))), inputs.clone().requires_grad_()
    state = model[0]
    open_share = state.gate(whole).sigmoid().detach()
    logits = model[1](open_share * state.plain(whole).detach().tanh() + (1 - open_share) * whole)
    nn.functional.cross_entropy(logits, Y).backward()
    torch.testing.assert_close(parts[0].float(), whole.grad)
    with pytest.raises(ValueError, match="lesioned by setting its transform gate"), gs.lesion(model, found):
        model(inputs)
    with gs.bypass(model, "0"):
        assert torch.equal(model(inputs), model[1](inputs))
    unclear = nn.Sequential(Both(), nn.Linear(4, 3))
    assert [junction.counted for junction in gs.junctions(unclear, inputs)] == [False]
    with pytest.raises(ValueError, match="Junctions of other kinds: 0:0"):
        gs.path_gradients((unclear, (inputs, Y)))


@row("parallel branches without a skip (Inception)")
def _():
    class Inception(Highway):
        def forward(self, inputs):
            return self.plain(inputs).tanh() + self.gate(inputs).tanh()

    model = nn.Sequential(Inception(), nn.Linear(4, 3))
    (found,) = gs.junctions(model, x())
    assert found.kind == "branches"
    with pytest.raises(ValueError, match="nothing here that a gate could replace"), gs.lesion(model, found):
        model(x())
    with pytest.raises(ValueError, match="Junctions of other kinds: 0:0"):
        gs.path_gradients((model, (x(), Y)))
    mixed = nn.Sequential(Inception(), Block(), nn.Linear(4, 3))
    assert len(gs.path_gradients((mixed, (x(), Y)))) == 2
    counts = gs.path_counts(mixed, x()).query("quantity == 'path_count'")["value"]
    assert counts.tolist() == [1, 1]


@row("residual blocks nested in a branch")
def _():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Linear(4, 4), Block()

        def forward(self, inputs):
            return inputs + self.inner(self.first(inputs).tanh())

    model, inputs = nn.Sequential(Outer(), nn.Linear(4, 3)), x()
    found = gs.junctions(model, inputs)
    assert sorted(junction.level for junction in found) == [0, 1]
    assert len(gs.path_gradients((model, (inputs, Y)))) == 2
    assert len(gs.path_gradients((model, (inputs, Y)), junctions=found)) == 3
    study = gs.lesion_study((model, (inputs, Y)), show=False).query("quantity == 'error'")
    (outer,) = [junction for junction in found if junction.level == 0]
    assert list(study["junction"]) == [outer.name]
    whole = model(inputs)
    with gs.lesion(model, [junction for junction in found if junction.level == 1]):
        assert not torch.equal(model(inputs), whole)

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, inputs):
            state = inputs
            for block in self.blocks:
                state = 0.7 * block(state) + 0.3 * inputs
            return state

    repeated = nn.Sequential(Again(), nn.Linear(4, 3))
    found = gs.junctions(repeated, inputs)
    assert [junction.outermost for junction in found] == [False] * 5 + [True]
    assert len(gs.path_gradients((repeated, (inputs, Y)))) == 2
    blocks = [junction for junction in found if junction.kind == "identity"]
    assert len(gs.path_gradients((repeated, (inputs, Y)), junctions=blocks)) == 4


@row("products with a skip inside, x (1 + F(x))")
def _():
    class Product(Block):
        def add(self, skip, branch):
            return skip * (1 + branch)

    class Expanded(Block):
        def add(self, skip, branch):
            return skip + skip * branch

    assert len(gs.junctions(nn.Sequential(Product(), nn.Linear(4, 3)), x())) == 0
    (found,) = gs.junctions(nn.Sequential(Expanded(), nn.Linear(4, 3)), x())
    assert found.kind == "identity"


@row("several residual streams that are mixed (hyper-connections)")
def _():
    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixtures = nn.Parameter(0.5 + 0.1 * torch.randn(3, 2, 2))
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, inputs):
            one = other = inputs
            for mixture, layer in zip(self.mixtures, self.layers, strict=True):
                new = layer(0.6 * one + 0.4 * other).tanh()
                one, other = (row[0] * one + row[1] * other + new for row in mixture)
            return one + other

    model = nn.Sequential(Streams(), nn.Linear(4, 3))
    assert {junction.kind for junction in gs.junctions(model, x())} == {"branches"}
    with pytest.raises(ValueError, match="No residual addition"):
        gs.path_gradients((model, (x(), Y)))


class Pair(nn.Module):
    """Two blocks in one part that is checkpointed, or not."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.stem, self.part, self.head = nn.Linear(4, 4), nn.Sequential(Block(), Block()), nn.Linear(4, 3)

    def forward(self, inputs):
        state = self.stem(inputs)
        if self.checkpointed:
            return self.head(checkpoint(self.part, state, use_reentrant=False))
        return self.head(self.part(state))


@row("activation checkpointing inside a gate")
def _():
    plain, inputs = Pair(checkpointed=False), x()
    again = Pair(checkpointed=True)
    again.load_state_dict(plain.state_dict())
    found = gs.junctions(again, inputs)
    gates = (gs.lesion, gs.cut_skips, gs.stochastic_depth, lambda *given: gs.scale_branches(*given, 0.5))
    for gate in gates:
        with (
            pytest.raises(RuntimeError, match=r"computes part\.0:0 again in the backward"),
            gate(again, found[0]),
        ):
            again(inputs)
        with torch.no_grad(), gate(again, found[0]), gate(plain, found[0]):
            assert torch.equal(again(inputs), plain(inputs))

    def gradients(model: nn.Module, inside: bool) -> torch.Tensor:
        model.zero_grad()
        with gs.bypass(model, "part.0"):
            loss = nn.functional.cross_entropy(model(inputs), Y)
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        return model.get_parameter("part.1.branch.0.weight").grad

    for inside in (True, False):
        assert torch.allclose(gradients(plain, inside), gradients(again, inside)) is inside
    for option in (gs.exact_blocks(1), gs.random_depth(0.5)):
        with pytest.raises(ValueError, match="Turn checkpointing off"):
            gs.fit(again, (inputs, Y), epochs=1, progress=False, paths=option)
    split, expected = (gs.path_gradients((model, (inputs, Y))) for model in (again, plain))
    torch.testing.assert_close(split, expected)
