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
    with pytest.raises(ValueError, match="Junctions of other kinds or levels: 0:0"):
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
    with pytest.raises(ValueError, match="Junctions of other kinds or levels: 0:0"):
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
    models = {"plain": plain, "checkpointed": Pair(checkpointed=True)}
    models["checkpointed"].load_state_dict(plain.state_dict())

    def gradients(model: nn.Module, closed: int) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with gs.lesion(model, gs.junctions(model, inputs)[closed]):
            loss = nn.functional.cross_entropy(model(inputs), Y)
            loss.backward()
        return loss.detach(), model.get_parameter(f"part.{1 - closed}.branch.0.weight").grad

    for closed, right in ((0, False), (1, True)):
        (loss, gradient), (same, other) = (gradients(model, closed) for model in models.values())
        assert torch.equal(loss, same)
        assert torch.allclose(gradient, other) is right
    for option in (gs.exact_blocks(1), gs.random_depth(0.5)):
        with pytest.raises(ValueError, match="Turn checkpointing off"):
            gs.fit(models["checkpointed"], (inputs, Y), epochs=1, progress=False, paths=option)
    split, expected = (gs.path_gradients((models[name], (inputs, Y))) for name in ("checkpointed", "plain"))
    torch.testing.assert_close(split, expected)
