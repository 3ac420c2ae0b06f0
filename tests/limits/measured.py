"""Rows of docs/limitations.md on what a measurement is."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import gradscope as gs
from limits.register import Y, net, normalised, row, x


@row("a forward that keeps values in nested lists or objects of its own")
def _():
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Linear(4, 4), net()
            self.kept, self.deep = [], {"inner": []}

        def forward(self, inputs):
            hidden = self.stem(inputs)
            self.kept.append(hidden)
            self.deep["inner"].append(hidden)
            return self.body(hidden)

    model = Keeping().eval()
    gs.lesion_study((model, (x(), Y)), sets=(), groups=None, show=False)
    # The pass that finds the junctions is an ordinary one, and leaves what it leaves.
    assert len(model.kept) == 1 < len(model.deep["inner"])
    assert model.kept[0].isfinite().all()
    with pytest.raises(BaseException, match="holds no numbers"):
        sum(hidden.sum().item() for hidden in model.deep["inner"])


@row("batches that take another way through the network")
def _():
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, inputs):
            hidden = self.body[0](inputs)
            return self.body[1:](hidden if len(inputs) > 3 else hidden.tanh())

    model, inputs = Forked().eval(), x()
    with pytest.warns(UserWarning, match="another way"):
        frame = gs.lesion_study((model, (inputs, Y)), sets=(), groups=None, show=False)
    with gs.lesion(model, gs.junctions(model, inputs)[0]), torch.no_grad():
        wrong = (model(inputs).argmax(dim=1) != Y).double().mean()
    assert frame.query("quantity == 'error'")["value"].iloc[0] == float(wrong)
    assert frame["passes"].str.endswith("whole passes for batches that take another way").any()


@row("a lesion")
def _():
    model, ran = net(), []
    model[0].branch.register_forward_hook(lambda *_: ran.append(1))
    found = gs.junctions(model, x())
    ran.clear()
    with gs.lesion(model, found[0]):
        model(x())
    assert ran == [1]
    options = {"sets": (), "groups": None, "show": False}
    problem = gs.Problem(net(), (x(), Y))
    evaluations = {}
    for kind, passes in (
        ("zero", "prefix reuse"),
        ("mean", "full passes: a branch in a lesion of kind mean"),
    ):
        frame = gs.lesion_study(problem, kind=kind, **options)
        assert frame.query("quantity == 'error'")["passes"].str.startswith(passes).all()
        cost = gs.lesion_study(problem, kind=kind, dry_run=True, **options)
        evaluations[kind] = cost["branch_evaluations"].sum()
    # The intact network, and each of its two branches closed.
    assert evaluations["zero"] < evaluations["mean"] == 6


@row("several batches")
def _():
    model, one, other = net(), x(), x()
    for measure in (gs.gradient_correlation, gs.path_spectrum, gs.path_moments, gs.block_participation):
        both = measure((model, [(one, Y), (other, Y)]))
        alone = measure((model, [(one, Y), (one, Y)]))
        assert both.equals(alone)
    assert gs.path_gradients((model, [(one, Y), (other, Y)])).shape == (3, *one.shape)


@row("a `DataLoader` that shuffles")
def _():
    model, inputs = net(), x()
    loader = DataLoader(TensorDataset(inputs, Y), batch_size=3, shuffle=True)

    def read(data):
        return gs.gradient_correlation((model, data))["value"].iloc[0]

    same = {read(loader) for _ in range(3)}
    torch.manual_seed(7)
    assert len(same) == 1 and read(loader) not in same
    kept = list(loader)
    assert len({read(kept) for seed in range(3) if torch.manual_seed(seed)}) == 1
    uneven = DataLoader(TensorDataset(inputs, Y), batch_size=4, shuffle=True, drop_last=True)
    with pytest.raises(ValueError, match="shuffles"):
        gs.hessian((model, uneven))


@row("an iterator as data")
def _():
    with pytest.raises(ValueError, match=r"list\(data\)"):
        gs.Problem(net(), iter([(x(), Y)]))


@row("a loss that returns one number")
def _():
    problem = gs.Problem(net(), (x(), Y), lambda output, target: functional.cross_entropy(output, target))
    with pytest.raises(ValueError, match="one value per example"):
        gs.path_spectrum(problem)


@row("a model that returns several tensors")
def _():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, inputs):
            return self.net(inputs), inputs

    with pytest.raises(ValueError, match="forward="):
        gs.gradient_correlation((Two(), (x(), Y)))
    gs.gradient_correlation(gs.Problem(Two(), (x(), Y), forward=lambda model, inputs: model(inputs)[0]))


@row("dropout")
def _():
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)).train()
    inputs = x()
    assert gs.gradient_correlation((model, (inputs, Y))).equals(gs.gradient_correlation((model, (inputs, Y))))
    gs.hessian((model, (inputs, Y)))
    norms = []
    for _ in range(2):
        with gs.probes.gradient_norm(model, at="0") as readings:
            model(inputs).sum().backward()
        norms.append(readings.frame()["value"].iloc[0])
    assert norms[0] != norms[1]


class AlwaysDrops(nn.Linear):
    def forward(self, inputs):
        return super().forward(functional.dropout(inputs, 0.5))


@row("dropout that ignores eval mode")
def _():
    with pytest.raises(ValueError, match="random even in eval mode"):
        gs.hessian((nn.Sequential(AlwaysDrops(4, 3)), (x(), Y)))


@row("batch normalisation in train mode under a probe")
def _():
    model, inputs = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).train(), x()
    with gs.probes.gradient_correlation(model, at="0") as readings:
        model(inputs).square().sum().backward()
    mixed = readings.frame()["value"].iloc[0]
    # Gradients that sum to nothing over the batch: -1/(N-1), whatever the network.
    assert mixed == pytest.approx(-1 / 5, abs=1e-3)
    study = gs.gradient_correlation((model, inputs), at="0").query("site == '0'")["value"].iloc[0]
    assert study > 0.5


@row("fresh batch-norm statistics")
def _():
    model, data = normalised().eval(), (x(), Y)
    assert set(gs.gradient_correlation((model, data))["batch_norm"]) == {"frozen"}
    with pytest.raises(ValueError, match="never updated"):
        gs.gradient_correlation(gs.Problem(model, data, batch_norm="running"))
    with pytest.raises(ValueError, match="never updated"):
        gs.lesion_study((model, data))
    model.train()(data[0])
    assert len(gs.lesion_study((model.eval(), data), show=False)) > 0


@row('`batch_norm="own"`')
def _():
    problem = gs.Problem(normalised(), (x(), Y), batch_norm="own")
    assert set(gs.gradient_correlation(problem)["batch_norm"]) == {"own"}
    for measure in (gs.path_spectrum, gs.path_gradients, gs.hessian):
        with pytest.raises(ValueError, match="Use batch_norm='train'"):
            measure(problem)
    with pytest.raises(ValueError, match="no batch_norm='own'"):
        gs.input_trace(nn.Linear(1, 1), gs.data.line(8), batch_norm="own")


@row("batch-first only")
def _():
    model = nn.Sequential(
        nn.Flatten(0, 1), nn.Linear(4, 2), nn.Unflatten(0, (6, 3)), nn.Flatten(), nn.Linear(6, 3)
    )
    frame = gs.gradient_correlation((model, (torch.randn(6, 3, 4), Y)))
    frame = frame[~frame["quantity"].str.startswith("theory")]
    assert set(frame.query("site == '1'")["status"]) == {"skipped"}
    assert set(frame.query("site == '4'")["status"]) == {"ok"}


@row("half precision")
def _():
    model = net().bfloat16()
    problem = gs.Problem(model, (x(), Y))
    assert problem.dtype is torch.float32 and problem.model is not model
    assert len(gs.junctions(model, x().bfloat16())) == 2
    assert next(model.parameters()).dtype is torch.bfloat16


@row("dead or exploded gradients")
def _():
    dead = nn.Sequential(nn.Linear(4, 4), nn.Threshold(1e6, 0.0), nn.Linear(4, 3))
    frame = gs.gradient_correlation((dead, (x(), Y)))
    assert set(frame.query("site == '0'")["status"]) == {"undefined"}
    assert set(frame.query("site == '2'")["status"]) == {"ok"}
    assert "non-zero gradient" in frame["reason"].iloc[0]


@row("lesion studies")
def _():
    real, inputs = torch.randn(6, 3), x()
    for metric in ("error", "margin"):
        with pytest.raises(ValueError, match="class numbers"):
            gs.lesion_study((net(), (inputs, real)), metric=metric)
        with pytest.raises(ValueError, match=r"takes logits \[N, classes\]"):
            gs.lesion_study((net(), (torch.randn(6, 2, 4), Y)), metric=metric, show=False)
        with pytest.raises(ValueError, match="class numbers from 0 to 2"):
            gs.lesion_study((net(), (inputs, Y + 20)), metric=metric, show=False)

    def farthest(output, target, intact):
        return (output - target).abs().amax(dim=1)

    problem = gs.Problem(net(), (inputs, real), "half_squared_error")
    frame = gs.lesion_study(problem, metric=["loss", "kl", farthest], show=False)
    assert {"loss", "kl", "farthest"} <= set(frame["quantity"]) and set(frame["status"]) == {"ok"}


@row("lesion studies by `kl`")
def _():
    frame = gs.lesion_study((net(), (x(), Y)), metric="kl", sets=(), groups=None, show=False)
    rows = frame.query("quantity == 'kl_difference'")
    assert (rows["value"] > 0).all() and rows["p_value"].isna().all()
    assert rows["reason"].str.contains("never negative").all()


@row("re-ordering two blocks")
def _():
    frame = gs.reordering_study((net(), (x(), Y)), neighbours=False, show=False)
    assert set(frame.query("intervention == 'swaps'")["swaps"]) == {1}
    with pytest.raises(ValueError, match="changes nothing"):
        gs.reordering_study((net(), (x(), Y)), swaps=[2], show=False)


@row("`gs.fit`")
def _():
    with pytest.raises(ValueError, match="fit classifies"):
        gs.fit(net(), (x(), torch.randn(6, 3)))
