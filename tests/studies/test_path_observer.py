"""The observer of path lengths along training, against every path and against closed forms."""

import itertools
import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, Repeated, Residual, mlp
from torch import nn
from torch.nn import functional as F

from gradscope.problem import Problem
from gradscope.studies.effective_ensemble import effective_ensemble
from gradscope.studies.path_observer import COLUMNS, PathObserver
from gradscope.training import exact_blocks, fit, random_depth, short_paths

BLOCKS = 4


class Chain(nn.Module):
    """x + F_l(x); what crosses branch l backward is multiplied by `factors[l]`, the forward pass is not changed."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(nn.BatchNorm1d(3), mlp(3, 4, 3)) for _ in range(BLOCKS)])
        self.head = nn.Linear(3, 3)
        self.factors = [1.0] * BLOCKS

    def forward(self, x):
        for branch, factor in zip(self.branches, self.factors, strict=True):
            f = branch(x)
            x = x + (f if factor == 1.0 else f.detach() + factor * (f - f.detach()))
        return self.head(x)


def chain(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Chain().double().train()


def batch(examples=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (examples,), generator=generator)


def input_gradient(model, inputs, labels, factors):
    model.factors = list(factors)
    x = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), labels), x)
    model.factors = [1.0] * BLOCKS
    return gradient


def every_path(model, inputs, labels):
    """The gradient through exactly the branches of each subset, by inversion of all patterns of open branches."""
    subsets = [s for size in range(BLOCKS + 1) for s in itertools.combinations(range(BLOCKS), size)]
    opened = {
        s: input_gradient(model, inputs, labels, [float(b in s) for b in range(BLOCKS)]) for s in subsets
    }
    return {
        s: sum((-1) ** (len(s) - len(t)) * opened[t] for t in subsets if set(t) <= set(s)) for s in subsets
    }


def values(frame, step=0):
    rows = frame[frame["step"] == step]
    return dict(zip(rows["quantity"], rows["value"], strict=True))


def test_length_variance_and_coherence_are_those_of_all_paths():
    model, (inputs, labels) = chain(), batch()
    paths = every_path(model, inputs, labels)
    whole = sum(paths.values())
    torch.testing.assert_close(whole, input_gradient(model, inputs, labels, [1.0] * BLOCKS))
    shares = {s: float((g * whole).sum() / whole.square().sum()) for s, g in paths.items()}
    mean = sum(len(s) * w for s, w in shares.items())
    spread = sum((len(s) - mean) ** 2 * w for s, w in shares.items())
    coherence = float(whole.square().sum() / sum(g.square().sum() for g in paths.values()))
    observer = PathObserver((inputs, labels), draws=300, variance=True)
    observer(model, 0)
    frame = observer.frame()
    found = values(frame)
    assert list(frame) == COLUMNS
    assert found["mean_path_length"] == pytest.approx(mean, rel=1e-9)
    assert found["path_length_variance"] == pytest.approx(spread, rel=1e-9)
    assert found["gradient_norm"] == pytest.approx(float(whole.norm()), rel=1e-12)
    assert found["loss"] == pytest.approx(F.cross_entropy(model(inputs), labels).item(), rel=1e-12)
    row = frame[frame["quantity"] == "total_coherence"].iloc[0]
    assert row["low"] < coherence < row["high"] < 1.5 * row["low"]
    assert row["n"] == 300


def test_the_mean_over_all_signs_is_the_sum_of_squared_path_norms():
    """What the draws estimate (T7), by the reference's own signs."""
    model, (inputs, labels) = chain(), batch()
    paths = every_path(model, inputs, labels)
    squares = [
        input_gradient(model, inputs, labels, signs).square().sum()
        for signs in itertools.product([1.0, -1.0], repeat=BLOCKS)
    ]
    expected = sum(g.square().sum() for g in paths.values())
    torch.testing.assert_close(torch.stack(squares).mean(), expected)


@pytest.mark.parametrize("gain", [0.1, 0.4])
def test_shared_multiples_of_the_identity_have_closed_forms(gain):
    """With branches a I: shares are binomial, and identical paths cohere by (1 + a)^2n / (1 + a^2)^n (T6)."""
    block, times = Residual(nn.Linear(3, 3, bias=False)), 5
    model = nn.Sequential(Repeated(block, times), nn.Linear(3, 3)).double()
    with torch.no_grad():
        block.branch.weight.copy_(gain * torch.eye(3))
    observer = PathObserver(batch(), draws=400, variance=True)
    observer(model, 0)
    frame = observer.frame()
    found = values(frame)
    assert found["mean_path_length"] == pytest.approx(times * gain / (1 + gain))
    assert found["path_length_variance"] == pytest.approx(times * gain / (1 + gain) ** 2)
    assert found["implied_path_length"] == pytest.approx(times * gain / (1 + gain))
    assert found["implied_path_length_incoherent"] == pytest.approx(times * gain**2 / (1 + gain**2))
    row = frame[frame["quantity"] == "total_coherence"].iloc[0]
    assert row["low"] < ((1 + gain) ** 2 / (1 + gain**2)) ** times < row["high"]
    assert set(frame["batch_norm"]) == {"none"}


@pytest.mark.parametrize(
    "name", ["post-activation", "pre-norm transformer", "parallel transformer", "inside a module"]
)
def test_implied_lengths_are_those_of_the_effective_ensemble(name):
    specimen = NETWORKS[name]
    model, data = specimen.build(), (specimen.inputs(), specimen.targets())
    observer = PathObserver(data, batch_norm="frozen", draws=0)
    observer(model, 0)
    frame = effective_ensemble(Problem(model, data, batch_norm="frozen")).query("form == 'gain'")
    for labels, quantity in [
        ("coherent implied_path_length", "implied_path_length"),
        ("incoherent implied_path_length_of_squares", "implied_path_length_incoherent"),
    ]:
        (expected,) = frame[frame["mixture"] + " " + frame["quantity"] == labels]["value"]
        assert values(observer.frame())[quantity] == pytest.approx(expected, rel=1e-9)


def test_one_draw_has_no_interval_and_none_no_row():
    one, none = PathObserver(batch(), draws=1), PathObserver(batch(), draws=0)
    one(chain(), 0)
    none(chain(), 0)
    row = one.frame()[one.frame()["quantity"] == "total_coherence"].iloc[0]
    assert row["value"] > 0
    assert row["status"] == "ok"
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])
    assert row["reason"] == "one draw gives no interval"
    assert "total_coherence" not in set(none.frame()["quantity"])


@pytest.mark.parametrize("mode", ["train", "frozen", "running"])
def test_the_mode_of_batch_norm_is_told_and_used(mode):
    model, (inputs, labels) = chain(), batch()
    for _ in range(3):
        model(inputs + 0.5)
    observer = PathObserver((inputs, labels), batch_norm=mode, draws=0)
    observer(model, 0)
    frame = observer.frame()
    assert set(frame["batch_norm"]) == {mode}
    by_hand = chain()
    by_hand.load_state_dict(model.state_dict())
    for branch in by_hand.branches:
        if mode == "frozen":
            branch[0] = Frozen(branch[0])
    by_hand.train(mode == "train")
    expected = input_gradient(by_hand, inputs, labels, [1.0] * BLOCKS).norm()
    assert values(frame)["gradient_norm"] == pytest.approx(float(expected), rel=1e-9)


class Frozen(nn.Module):
    """Normalises by the batch's statistics as if they were constants."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        mean, variance = x.detach().mean(0), x.detach().var(0, correction=0)
        return (x - mean) / (variance + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias


def test_the_model_is_as_found():
    model = used(chain())
    model.branches[1].eval()
    observer = PathObserver(batch(), variance=True)
    before = snapshot(model)
    observer(model, 0)
    assert_as_found(model, before)


@pytest.mark.parametrize("forward", [1, 2])
def test_the_model_is_as_found_also_when_it_raises(forward):
    model, calls = used(chain()), []

    def loud(net, inputs):
        calls.append(1)
        if len(calls) == forward:
            raise KeyboardInterrupt
        return net(inputs)

    observer = PathObserver(batch(), forward=loud)
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        observer(model, 0)
    assert_as_found(model, before)
    assert observer.frame().empty


OPTIONS = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05}


def test_every_so_many_steps_of_a_training_that_is_not_changed():
    data = batch(examples=40)
    watched, alone = chain(), chain()
    observer = PathObserver(batch(), every=4, draws=2)
    fit(watched, data, **OPTIONS, observe=observer)
    fit(alone, data, **OPTIONS)
    for value, expected in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(value, expected)
    frame = observer.frame()
    assert sorted(set(frame["step"])) == [0, 4, 8]
    assert not frame.duplicated(["step", "quantity"]).any()
    assert frame["value"].notna().all()


@pytest.mark.parametrize("paths", [None, short_paths(1), exact_blocks(2), random_depth()], ids=str)
def test_observers_look_at_the_whole_network_also_while_it_trains_on_some_paths(paths):
    data, at_start = batch(examples=40), PathObserver(batch(), every=100, draws=2)
    at_start(chain(), 0)
    observer = PathObserver(batch(), every=100, draws=2)
    fit(chain(), data, **OPTIONS, paths=paths, observe=observer)
    assert observer.frame().equals(at_start.frame())


def test_rows_of_an_interrupted_training_are_kept_and_those_seen_again_replaced(tmp_path):
    data, path = batch(examples=40), tmp_path / "training.safetensors"
    whole, interrupted, late = (PathObserver(batch(), every=2, draws=2) for _ in range(3))
    fit(chain(), data, **OPTIONS, observe=whole)

    def stop(model, step):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(chain(), data, **OPTIONS, checkpoint=path, observe=[interrupted, stop])
    fit(chain(), data, **OPTIONS, checkpoint=path, observe=[interrupted, late])
    assert interrupted.frame().equals(whole.frame())
    assert sorted(set(late.frame()["step"])) == [6, 8, 10]
    expected = whole.frame()[whole.frame()["step"] >= 6].reset_index(drop=True)
    assert late.frame().equals(expected)


def test_a_loop_of_ones_own():
    model, (inputs, labels) = chain(), batch()
    observer = PathObserver((inputs, labels), every=2, draws=0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        observer(model, step)
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    assert sorted(set(observer.frame()["step"])) == [0, 2]


def test_what_is_not_defined_says_why():
    model = chain()
    nn.init.zeros_(model.head.weight)
    observer = PathObserver(batch(), draws=2, variance=True)
    observer(model, 0)
    rows = observer.frame().set_index("quantity")
    for quantity in ("mean_path_length", "path_length_variance", "total_coherence"):
        assert math.isnan(rows.loc[quantity, "value"])
        assert rows.loc[quantity, "status"] == "undefined"
        assert rows.loc[quantity, "reason"]
    assert rows.loc["gradient_norm", "value"] == 0
    assert rows.loc["implied_path_length", "status"] == "ok"


def test_a_network_without_gains_has_no_implied_length():
    specimen = NETWORKS["dense list"]
    observer = PathObserver((specimen.inputs(), specimen.targets()), draws=2)
    observer(specimen.build(), 0)
    rows = observer.frame().set_index("quantity")
    assert rows.loc["mean_path_length", "status"] == "ok"
    assert rows.loc["implied_path_length", "status"] == "undefined"
    assert "no gain to measure" in rows.loc["implied_path_length", "reason"]


def test_mistakes_are_told():
    for options in ({"every": 0}, {"every": 1.5}, {"draws": -1}, {"seed": None}):
        with pytest.raises(ValueError, match="whole numbers every >= 1, draws >= 0 and seed"):
            PathObserver(batch(), **options)
    with pytest.raises(ValueError, match="one of auto, frozen, running, train, got 'own'"):
        PathObserver(batch(), batch_norm="own")
    inputs, labels = batch()
    for data, net, message in [
        ([(inputs, labels), (inputs, labels)], chain(), "holds 14 examples in several"),
        (inputs, chain(), "has no targets"),
        ((inputs, labels), mlp(3, 4, 3).double(), "there are no path lengths"),
    ]:
        with pytest.raises(ValueError, match=message):
            PathObserver(data)(net, 0)
