"""Rows of docs/limitations.md on paths."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradscope as gs
from limits.register import Block, Dense, Highway, Y, net, normalised, row, x


def statuses(model: nn.Module, **options) -> dict[str, set[str]]:
    frame = gs.path_spectrum((model, (x(), Y)), draws=2, **options)
    return frame.groupby("quantity")["status"].agg(set).to_dict()


@row('`norms="example"` with batch normalisation in train mode')
def _():
    data = x(), Y
    for batch_norm, known in (("train", False), ("frozen", True)):
        problem = gs.Problem(normalised(), data, batch_norm=batch_norm)
        if known:
            assert set(gs.path_moments(problem, norms="example")["n"]) == {6}
            continue
        for measure in (gs.path_spectrum, gs.path_moments, gs.block_participation):
            with pytest.raises(ValueError, match="batch_norm='frozen' or norms='batch'"):
                measure(problem, norms="example")


@row("the shares of path lengths")
def _():
    class Halving(Block):
        """x - x/2, of which the skip is twice what is left."""

        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(4, 4, bias=False)
            with torch.no_grad():
                self.branch.weight.copy_(-0.5 * torch.eye(4))

    model = nn.Sequential(Halving(), Halving(), Halving(), nn.Linear(4, 3))
    moments = gs.path_moments((model, (x(), Y))).set_index("quantity")
    # Of each of three blocks the skip's share is 2 and the branch's -1.
    assert moments["value"]["mean_path_length"] == pytest.approx(-3, rel=1e-4)
    assert moments["value"]["path_length_variance"] == pytest.approx(-6, rel=1e-4)
    assert "some of them are negative" in moments["reason"]["path_length_variance"]


class KeepsAList(nn.Module):
    """A DenseNet that concatenates all it has kept anew for each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4 * many, 4) for many in (1, 2, 3))
        self.head = nn.Linear(16, 3)

    def forward(self, inputs):
        kept = [inputs]
        for layer in self.layers:
            kept.append(layer(torch.cat(kept, dim=1)).tanh())
        return self.head(torch.cat(kept, dim=1))


class TwoParts(nn.Module):
    """The second part reads the first one's output in each of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(Block(), Block()), nn.ModuleList([Block(), Block()])
        self.reads, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        known, state = self.first(inputs), inputs
        for block in self.second:
            state = block(state)
            state = state + self.reads(known * state).tanh()
        return self.head(state)


@row("networks that are no chain (DenseNets that keep a list, encoder-decoders)")
def _():
    for model in (KeepsAList(), TwoParts()):
        status = statuses(model, sampled=2)
        for quantity in ("path_count", "signed_share", "coherent_norm", "incoherent_norm"):
            assert "ok" in status[quantity]
        assert status["mean_path_norm"] == {"undefined"}
        with pytest.raises(ValueError, match="some path here leads around a junction"):
            gs.path_gradients((model, (x(), Y)), 1, longest=True)
    assert statuses(nn.Sequential(Dense(), nn.Linear(8, 3)), sampled=2)["mean_path_norm"] == {"ok"}


@row("paths that cross the same branches (products of two residual streams)")
def _():
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = Block(), Block(), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(self.one(inputs) * self.other(inputs))

    status = statuses(Product())
    for quantity in ("rms_path_norm", "veit_product", "coherence"):
        assert status[quantity] == {"undefined"}
    for quantity in ("path_count", "signed_share", "coherent_norm"):
        assert status[quantity] == {"ok"}
    frame = gs.path_spectrum((Product(), (x(), Y)), draws=2).query("path_length < 2").set_index("quantity")
    # Two paths cross nothing: their squares, told apart, would not add up to that of their sum.
    assert frame["value"]["path_count"].iloc[0] == 2
    for quantity in ("squared_path_norms", "incoherent_norm"):
        assert frame["value"][quantity].isna().all()
    observer = gs.PathObserver((x(), Y), draws=2)
    observer(Product(), 0)
    assert observer.frame().set_index("quantity")["status"]["total_coherence"] == "undefined"


@row("numbers of paths at parameters, or at a site")
def _():
    def counted(model: nn.Module, at: str) -> list:
        frame = gs.path_spectrum((model, (x(), Y)), draws=0, at=at)
        return frame.query("quantity == 'path_count'")[["value", "status"]].to_numpy().tolist()

    for at in ("parameters", "first.0"):
        assert {status for _, status in counted(TwoParts(), at)} == {"undefined"}
    assert {status for _, status in counted(TwoParts(), "input")} == {"ok"}
    assert counted(net(), "0") == [[1, "ok"], [1, "ok"], [0, "ok"]]
    assert counted(net(), "2") == [[1, "ok"], [0, "ok"], [0, "ok"]]
    frame = gs.path_spectrum((TwoParts(), (x(), Y)), at="parameters").query("quantity == 'incoherent_norm'")
    assert frame["reason"].str.contains("added before they are squared").any() or set(frame["status"]) == {
        "undefined"
    }

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state, self.block, self.head = nn.Linear(4, 4), Block(), nn.Linear(4, 3)

        def forward(self, inputs):
            known = self.state(torch.ones_like(inputs))
            return self.head(self.block(inputs) + self.block.branch(inputs + known))

    assert {status for _, status in counted(Told(), "state")} == {"undefined"}


@row("random signs where paths pull together")
def _():
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = 0.5 * torch.eye(4)

    class Half(Block):
        def __init__(self) -> None:
            super().__init__()
            self.branch = layer

    model = nn.Sequential(*(Half() for _ in range(6)), nn.Linear(4, 3))
    frame = gs.path_spectrum((model, (x(), Y))).query("quantity == 'coherence'").set_index("path_length")
    assert frame["value"][3] == pytest.approx(20, rel=1e-3)
    assert "take 8 draws for each unit" in frame["reason"][3] and frame["reason"][0] == ""
    enough = gs.path_spectrum((model, (x(), Y)), draws=170, lengths=3)
    assert set(enough.query("quantity == 'coherence'")["reason"]) == {""}
    observer = gs.PathObserver((x(), Y))
    observer(model, 0)
    assert "take 8 draws for each unit" in observer.frame().set_index("quantity")["reason"]["total_coherence"]


@row("paths weaker than 1e-308")
def _():
    class Weak(Block):
        def add(self, skip, branch):
            return skip + 1e-30 * branch

    model = nn.Sequential(*(Weak() for _ in range(12)), nn.Linear(4, 3))
    assert statuses(model)["coherent_norm"] == {"ok", "undefined"}
    parts = gs.path_gradients((model, (x(), Y)))
    assert 0 < parts[8].abs().max() < 1e-200 and parts[-1].abs().max() == 0
    assert set(gs.path_moments((model, (x(), Y)))["status"]) == {"ok"}


@row("`precision=torch.float64`")
def _():
    model, data = net(), (x(), Y)
    found, options = gs.junctions(model, data[0]), {"precision": torch.float64}
    exact = gs.path_gradients(gs.Problem(model, data, forward=lambda called, given: called(given)), **options)
    torch.testing.assert_close(gs.path_gradients((model, data)), exact, atol=1e-6, rtol=1e-4)
    with pytest.raises(RuntimeError, match="same dtype"):
        gs.path_gradients(gs.Problem(model, data, forward=lambda called, given: model(given)), **options)
    with gs.skipped(model, ["0"]), pytest.raises(RuntimeError, match="outside of the gate"):
        gs.path_gradients((model, data), **options)
    with gs.lesion(model, found[0]):
        assert len(gs.path_gradients((model, data), **options)) == 2
    assert next(model.parameters()).dtype is torch.float32


@row("checkpointed parts, and hooks that change gradients")
def _():
    from gradscope.gradients.live import open_paths

    class Checkpointed(Block):
        def forward(self, inputs):
            return checkpoint(super().forward, inputs, use_reentrant=False)

    class Doubling(Block):
        def add(self, skip, branch):
            branch.register_hook(lambda gradient: 2 * gradient)
            return skip + branch

    for kind, engine in ((Block, "walk"), (Checkpointed, "passes"), (Doubling, "passes")):
        model = nn.Sequential(*(kind() for _ in range(5)), nn.Linear(4, 3))
        with open_paths((model, (x(), Y))) as paths:
            found, slow = paths.graded(), paths.graded(engine="passes")
            assert found.engine == engine
            torch.testing.assert_close(found.gradients, slow.gradients, atol=1e-7, rtol=1e-4)
            torch.testing.assert_close(found.gradients.sum(dim=0), found.gradient, atol=1e-7, rtol=1e-4)
            if engine == "passes":
                with pytest.raises(RuntimeError, match="engine='passes'"):
                    paths.graded(engine="walk")


@row("junctions by hand")
def _():
    model, inputs = net(), x()
    by_hand = gs.junction_by_hand(model, "0.branch")
    with pytest.raises(ValueError, match=r"cannot be counted at 0\.branch"):
        gs.path_gradients((model, (inputs, Y)), junctions=by_hand)
    with pytest.raises(ValueError, match="junction by hand"):
        gs.fit(model, (inputs, Y), epochs=1, progress=False, paths=gs.short_paths(1, junctions=by_hand))
    with gs.lesion(model, by_hand):
        model(inputs)
    gs.fit(model, (inputs, Y), epochs=1, progress=False, paths=gs.exact_blocks(1, junctions=by_hand))


@row('`by="attention"`')
def _():
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.keys, self.values = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, states):
            summed = self.keys(states).relu().transpose(1, 2) @ self.values(states)
            return states + self.queries(states).relu() @ summed

    class Mean(nn.Module):
        def forward(self, states):
            return states.mean(dim=1)

    def columns(block: nn.Module, by) -> list[str]:
        model = nn.Sequential(block, Mean(), nn.Linear(4, 3))
        frame = gs.graded_path_spectrum((model, (torch.randn(6, 3, 4), Y)), by=by)
        return [name for name in frame if name.startswith("length_")]

    usual = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    assert columns(usual, "attention") == ["length_attention", "length_other"]
    assert columns(Linear(), "attention") == ["length_other"]
    assert columns(Linear(), {"0:0": "linear"}) == ["length_linear"]


@row("the law of path lengths at initialisation")
def _():
    for size, lowest, highest in ((8, 0.75, 0.94), (32, 0.95, 1.05)):
        model = gs.nets.build("resnet", depth=20, width=8, channels=1, seed=0)
        images = torch.randn(16, 1, size, size)
        problem = gs.Problem(model, (images, torch.arange(16) % 10), batch_norm="train")
        squares = gs.path_spectrum(problem, draws=2).query("quantity == 'squared_path_norms'")
        measured = (squares["value"] * squares["path_length"]).sum() / squares["value"].sum()
        stem: Tensor = model.get_submodule("stem")(images)
        variances = stem.detach().var(dim=(0, 2, 3), correction=0).tolist()
        law = gs.theory.mean_path_length(gs.theory.resnet_batch_norm_gains([3, 3, 3], variances))
        assert lowest < measured / law < highest


@row("training on some of the paths")
def _():
    data = x(), Y
    options = {"short": gs.short_paths(1), "exact": gs.exact_blocks(1), "random": gs.random_depth(0.5)}
    for name, option in options.items():
        with pytest.raises(ValueError, match="no residual blocks to choose among"):
            gs.fit(nn.Sequential(nn.Linear(4, 3)), data, epochs=1, progress=False, paths=option)
        gated = nn.Sequential(Highway(), nn.Linear(4, 3))
        if name == "short":
            gs.fit(gated, data, epochs=1, progress=False, paths=option)
        else:
            with pytest.raises(ValueError, match="only junctions of kind gated"):
                gs.fit(gated, data, epochs=1, progress=False, paths=option)
    model = net().train()
    with options["short"].around(model, data[0]) as step:
        with pytest.raises(RuntimeError, match=r"step\.backward\(loss\)"):
            nn.functional.cross_entropy(model(data[0]), Y).backward()
    with options["short"].around(model, data[0]) as step:
        step.backward(nn.functional.cross_entropy(model(data[0]), Y))
    assert model[0].branch[0].weight.grad is not None
