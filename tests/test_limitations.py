"""Every row of docs/limitations.md is true: a function for each, under the name in its first column."""

import re
import tomllib
from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint
from documents import ROOT
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import gradscope as gs

UNTRIED = ["GPUs, `torchrun`, Windows"]
CHECKS: dict[str, Callable[[], None]] = {}
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def row(context: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def note(check: Callable[[], None]) -> Callable[[], None]:
        CHECKS[context] = check
        return check

    return note


def rows() -> list[str]:
    lines = (ROOT / "docs" / "limitations.md").read_text(encoding="utf-8").splitlines()
    told = [re.split(r"(?<!\\)\|", line)[1].strip() for line in lines if line.startswith("| ")]
    return [context for context in told if context != "context"]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.filterwarnings("ignore")  # torch warns of tracing, scripting and quantising at length
@pytest.mark.parametrize("context", [context for context in rows() if context not in UNTRIED])
def test_the_row_is_true(context):
    CHECKS[context]()


def test_no_check_is_without_its_row():
    assert sorted([*CHECKS, *UNTRIED]) == sorted(rows())


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


def net() -> nn.Sequential:
    return nn.Sequential(Block(), Block(), nn.Linear(4, 3))


def normalised() -> nn.Sequential:
    return nn.Sequential(Block(), nn.BatchNorm1d(4), nn.Linear(4, 3))


def sums(add: Callable) -> int:
    kind = type("Kind", (Block,), {"add": lambda self, skip, branch: add(skip, branch)})
    return len(gs.junctions(nn.Sequential(kind(), nn.Linear(4, 3)), x()))


@row("concatenations (DenseNet, U-Net)")
def _():
    class Dense(Block):
        def add(self, skip, branch):
            return torch.cat([skip, branch], dim=1)

    model, inputs = nn.Sequential(Dense(), nn.Linear(8, 3)), x()
    (found,) = gs.junctions(model, inputs)
    assert found.kind == "concat"
    with pytest.raises(ValueError, match="Additions of other kinds: 0:0"):
        gs.path_spectrum((model, (inputs, Y)))
    with gs.lesion(model, found):
        closed = model(inputs)
    assert torch.equal(closed, model[1](torch.cat([inputs, torch.zeros(6, 4)], dim=1)))
    mixed = nn.Sequential(Block(), *model)
    assert len(gs.path_gradients((mixed, (inputs, Y)))) == 2


@row("additions in a custom kernel or `autograd.Function`")
def _():
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(context, skip, branch):
            return skip + branch

        @staticmethod
        def backward(context, gradient):
            return gradient, gradient

    with pytest.warns(UserWarning, match="FusedBackward.*by hand"):
        assert sums(Fused.apply) == 0
    assert sums(torch.add) == 1


@row("sums of a stack that is weighted before it is summed, `einsum` over a stack")
def _():
    share = torch.tensor([0.5, 0.5])
    assert sums(lambda skip, branch: (share[:, None, None] * torch.stack([skip, branch])).sum(dim=0)) == 0
    assert sums(lambda skip, branch: torch.einsum("s,sij->ij", share, torch.stack([skip, branch]))) == 0
    assert sums(lambda skip, branch: torch.stack([skip, branch]).sum(dim=0)) == 1
    assert sums(lambda skip, branch: torch.lerp(skip, branch, 0.5)) == 1


@row("several inputs")
def _():
    class Two(Highway):
        def forward(self, inputs, other, mask=None):
            side = self.gate(other)
            side = side + self.plain(side).tanh()
            return inputs + self.plain(inputs).tanh() if mask is None else (inputs + mask) + side

    model = Two()
    assert len(gs.junctions(model, x(), x())) == 1
    assert len(gs.junctions(model, x(), x(), mask=x())) == 1
    assert len(gs.junctions(model, x(), torch.randn(4), mask=x())) == 0


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, inputs):
        gate = self.gate(inputs).sigmoid()
        return gate * self.plain(inputs).tanh() + (1 - gate) * inputs


@row("gated additions (highway) and parallel branches without a skip")
def _():
    class Inception(Highway):
        def forward(self, inputs):
            return self.plain(inputs).tanh() + self.gate(inputs).tanh()

    remedy = {
        "gated": "lesioned by setting its transform gate",
        "branches": "nothing here that a gate could replace",
    }
    for kind, module in {"gated": Highway(), "branches": Inception()}.items():
        model = nn.Sequential(module, nn.Linear(4, 3))
        (found,) = gs.junctions(model, x())
        assert found.kind == kind
        with pytest.raises(ValueError, match=remedy[kind]), gs.lesion(model, found):
            model(x())
        with pytest.raises(ValueError, match="Additions of other kinds"):
            gs.path_gradients((model, (x(), Y)))
        mixed = nn.Sequential(module, Block(), nn.Linear(4, 3))
        assert len(gs.path_gradients((mixed, (x(), Y)))) == 2


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
    study = gs.lesion_study((model, (inputs, Y)), show=False).query("quantity == 'error'")
    (outer,) = [junction for junction in found if junction.level == 0]
    assert list(study["junction"]) == [outer.name]
    whole = model(inputs)
    with gs.lesion(model, [junction for junction in found if junction.level == 1]):
        assert not torch.equal(model(inputs), whole)


@row("ways around the blocks (products of two residual streams, early exits)")
def _():
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = Block(), Block(), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(self.one(inputs) * self.other(inputs))

    status = gs.path_spectrum((Product(), (x(), Y)), draws=2).groupby("quantity")["status"].unique()
    for quantity in ("path_count", "rms_path_norm", "veit_product"):
        assert list(status[quantity]) == ["undefined"]
    for quantity in ("signed_share", "coherent_norm", "incoherent_norm"):
        assert list(status[quantity]) == ["ok"]


@row("compiled models (`torch.compile`)")
def _():
    model, inputs = net(), x()
    torch.compiler.reset()  # what other tests compiled would be compiled again for any batch size
    compiled = torch.compile(model, backend="aot_eager")
    whole = compiled(inputs)
    whole.sum().backward()
    for measure in (gs.path_spectrum, gs.lesion_study):
        with pytest.raises(ValueError, match="force_eager"):
            measure((compiled, (inputs, Y)))
    with pytest.raises(ValueError, match="force_eager"):
        gs.junctions(compiled, inputs)
    with pytest.raises(ValueError, match="_orig_mod"):
        gs.hessian((compiled, (inputs, Y)))
    with gs.probes.gradient_norm(compiled) as deaf:
        compiled(inputs).sum().backward()
    assert len(deaf) == 0
    with torch.compiler.set_stance("force_eager"):
        with gs.probes.gradient_norm(compiled) as hearing:
            compiled(inputs).sum().backward()
        with gs.lesion(compiled, gs.junctions(compiled, inputs)[0]):
            lesioned = compiled(inputs)
    assert len(hearing) == 5
    with gs.lesion(model, gs.junctions(model, inputs)[0]):
        torch.testing.assert_close(lesioned, model(inputs))


@row("traced models (`torch.jit.trace`)")
def _():
    traced, inputs = torch.jit.trace(net(), x()), x()
    with pytest.raises(ValueError, match="Pass the module that was traced"):
        gs.junctions(traced, inputs)
    with pytest.raises(ValueError, match="Pass the module that was traced"):
        gs.lesion_study((traced, (inputs, Y)), show=False)
    assert gs.path_gradients((traced, (inputs, Y))).shape == (3, 6, 4)
    assert set(gs.gradient_correlation((traced, (inputs, Y)))["site"]) == {"input"}


@row("scripted models (`torch.jit.script`)")
def _():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)))
    with pytest.raises(RuntimeError, match="hook"):
        gs.gradient_correlation((scripted, (x(), Y)))
    with pytest.raises(ValueError, match="The whole model is scripted"):
        gs.lesion_study((scripted, (x(), Y)), show=False)


@row("reentrant checkpointing")
def _():
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.block, self.head, self.reentrant = Block(), nn.Linear(4, 3), reentrant

        def forward(self, inputs):
            checkpoint = torch.utils.checkpoint.checkpoint
            return self.head(checkpoint(self.block, inputs, use_reentrant=self.reentrant))

    with pytest.raises(ValueError, match="use_reentrant=False"):
        gs.junctions(Checkpointed(True), x())
    assert len(gs.junctions(Checkpointed(False), x())) == 1


@row("`torch.inference_mode`")
def _():
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        gs.junctions(net(), x())
    with torch.no_grad():
        assert len(gs.junctions(net(), x())) == 2


@row("integer inputs that no `nn.Embedding` reads")
def _():
    class Tokens(nn.Module):
        def __init__(self, embedding: nn.Module) -> None:
            super().__init__()
            self.embedding, self.block = embedding, Block()

        def forward(self, tokens):
            return self.block(self.embedding(tokens)).mean(dim=1)

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.randn(5, 4))

        def forward(self, tokens):
            return self.rows[tokens]

    tokens = torch.randint(5, (6, 3))
    with pytest.raises(ValueError, match=r"nn\.Embedding"):
        gs.junctions(Tokens(Table()), tokens)
    assert len(gs.junctions(Tokens(nn.Embedding(5, 4)), tokens)) == 1


@row("dynamically quantised layers")
def _():
    quantised = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})
    assert len(gs.junctions(quantised, x())) == 0


@row("models on the meta device")
def _():
    model, inputs = net().to("meta"), x().to("meta")
    assert len(gs.junctions(model, inputs)) == 2
    with pytest.raises(RuntimeError):
        gs.gradient_correlation((model, (inputs, Y.to("meta"))))


@row("a forward whose additions depend on the data")
def _():
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Block(), Block()

        def forward(self, inputs):
            return self.other(self.one(inputs)) if len(inputs) > 3 else self.one(inputs)

    model = Early()
    found = gs.junctions(model, x())
    with pytest.raises(RuntimeError, match="called 1 additions"), gs.lesion(model, found[0]):
        model(x()[:2])


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
    for measure in (gs.gradient_correlation, gs.path_spectrum):
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


@row("more than 5000 parameters")
def _():
    operator = gs.hessian((nn.Sequential(nn.Linear(4, 1000), nn.Linear(1000, 3)), (x(), Y)))
    with pytest.raises(ValueError, match="allow_large=True"):
        operator.dense()
    for definition in ("extreme_ratio", "percentile_10"):
        assert list(gs.condition_number(operator, definition)["status"]) == ["undefined"]
    assert list(gs.condition_number(operator, "kappa_lower", max_products=5)["status"]) == ["ok"]


@row("frozen parameters")
def _():
    model = net()
    model[0].requires_grad_(False)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert gs.hessian((model, (x(), Y))).shape == (trainable, trainable)
    with pytest.raises(ValueError, match="requires_grad"):
        gs.hessian((model.requires_grad_(False), (x(), Y)))


@row("`weight_norm`")
def _():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="weight_norm is wrong"):
        gs.hessian((model, (x(), Y)))


@row("attention")
def _():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(12, 3))
    gs.hessian((model, (torch.randn(6, 3, 4), Y)), check="full")


@row("repeated eigenvalues")
def _():
    from gradscope.curvature import MatrixOperator

    values = torch.cat([torch.tensor([9.0, 9.0]), torch.linspace(0.0, 1.0, 98)]).double()
    operator = MatrixOperator(values.diag())
    found = gs.extreme_eigenvalues(operator, 2, ends="largest", max_products=8)["value"]
    assert found.iloc[0] == pytest.approx(9) and found.iloc[1] < 1.1
    density = gs.spectral_density(operator, probes=20, steps=30)
    trace = density.query("quantity == 'trace'")["value"].iloc[0]
    assert trace == pytest.approx(float(values.sum()), rel=1e-6)


@row("NaN in loss or gradient")
def _():
    model = net()
    with torch.no_grad():
        model[0].branch[0].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="finite loss"):
        gs.hessian((model, (x(), Y)))


@row("the report's claims")
def _():
    from analyses import lesions, paths, shattering

    for analysis in (lesions, paths, shattering):
        assert {name: preset.layers for name, preset in analysis.PRESETS.items()}["standard"] == 110
        assert analysis.PRESETS["quick"].layers <= 56
    assert lesions.PRESETS["quick"].layers == 56


@row("data")
def _():
    from gradscope.studies.settings import DATA

    assert DATA == ("digits", "cifar10")
    with pytest.raises(FileNotFoundError, match="folder"):
        gs.data.cifar10("there-is-none")


@row("thread count")
def _():
    kept = gs.report.provenance({}, seeds=[0], data=gs.data.digits())
    assert kept["threads"] == torch.get_num_threads()


@row("versions")
def _():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch>=2.10" in project["dependencies"] and project["requires-python"] == ">=3.11"
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
