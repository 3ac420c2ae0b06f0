"""Training on short paths: the gradient of a step is that of all paths up to a length, one by one."""

import itertools

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS, RESIDUAL, Residual, mlp
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradscope.gradients.paths import path_gradients
from gradscope.instruments.gates import junction_by_hand
from gradscope.instruments.junctions import junctions
from gradscope.problem import Problem
from gradscope.training import short_paths

BLOCKS = 4


class Chain(nn.Module):
    """x + F_l(x) four times; branches not in `open` are there in the forward pass only."""

    def __init__(self, normalised=False):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 3)
        norm = nn.BatchNorm1d if normalised else nn.Identity
        self.branches = nn.ModuleList([nn.Sequential(norm(4), mlp(4, 3, 4)) for _ in range(BLOCKS)])
        self.open = set(range(BLOCKS))

    def forward(self, x):
        x = self.stem(x)
        for place, branch in enumerate(self.branches):
            f = branch(x)
            x = x + (f if place in self.open else f.detach())
        return self.head(x)


def chain(normalised=False, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Chain(normalised).double().train()


def batch(examples=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (examples,), generator=generator)


def gradients(model, loss=None):
    """Gradient of every parameter, zeros where there is none."""
    if loss is not None:
        model.zero_grad()
        loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def by_inversion(model, inputs, labels):
    """g_k for each parameter, from the gradients with every subset of branches open: Moebius inversion."""
    with_open = {}
    for size in range(BLOCKS + 1):
        for subset in itertools.combinations(range(BLOCKS), size):
            model.open = set(subset)
            with_open[subset] = gradients(model, F.cross_entropy(model(inputs), labels))
    model.open = set(range(BLOCKS))
    graded = [{n: torch.zeros_like(p) for n, p in model.named_parameters()} for _ in range(BLOCKS + 1)]
    for subset in with_open:
        for size in range(len(subset) + 1):
            for inner in itertools.combinations(subset, size):
                for name, gradient in with_open[inner].items():
                    graded[len(subset)][name] += (-1) ** (len(subset) - size) * gradient
    return graded


def short_gradients(model, lengths, inputs, labels, **options):
    model.zero_grad()
    with short_paths(lengths, **options).around(model, inputs) as step:
        step.backward(F.cross_entropy(model(inputs), labels))
    return gradients(model)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("lengths", range(BLOCKS + 1))
def test_gradients_are_those_of_all_paths_up_to_a_length(lengths, normalised):
    model, (inputs, labels) = chain(normalised), batch()
    graded = by_inversion(model, inputs, labels)
    found = short_gradients(model, lengths, inputs, labels)
    for name in found:
        expected = sum(grade[name] for grade in graded[: lengths + 1])
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "name", [*[n for n in RESIDUAL if "frozen" not in n and n != "tokens"], "highway", "dense"]
)
def test_every_kind_of_block_is_counted_as_path_gradients_counts_it(name):
    specimen = NETWORKS[name]
    model, inputs, labels = specimen.build().train(), specimen.inputs(), specimen.targets()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    graded = path_gradients(Problem(model, (inputs, labels), batch_norm="train"), at="parameters")
    for lengths in range(len(next(iter(graded.values())))):
        found = short_gradients(model, lengths, inputs, labels)
        for parameter, gradient in found.items():
            expected = graded[parameter][: lengths + 1].sum(dim=0)
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-13)


class PastTheTrunk(Chain):
    """Sums of several operands without weights, in a trunk that a second head looks past."""

    def __init__(self):
        super().__init__()
        self.aside = nn.Linear(4, 3)

    def forward(self, x):
        h = x = self.stem(x)
        for branch in self.branches:
            x = x + (0.5 * x.sin() + branch(x))
        return self.head(x) + self.aside(h.cos())


def test_blocks_that_a_sum_without_a_skip_encloses_are_counted():
    model, (inputs, labels) = PastTheTrunk().double().train(), batch()
    graded = path_gradients(Problem(model, (inputs, labels)), at="parameters")
    for lengths in range(BLOCKS + 1):
        for parameter, gradient in short_gradients(model, lengths, inputs, labels).items():
            torch.testing.assert_close(gradient, graded[parameter][: lengths + 1].sum(dim=0))


def test_length_zero_trains_what_lies_outside_of_branches():
    """Identity skips hand the head's gradient down to the stem; weights in branches get nothing (T4)."""
    model, (inputs, labels) = chain(), batch()
    found = short_gradients(model, 0, inputs, labels)
    for name, gradient in found.items():
        if name.startswith("branches"):
            assert torch.equal(gradient, torch.zeros_like(gradient)), name
    streams = []
    handle = model.head.register_forward_hook(lambda module, given, output: streams.append(given[0]))
    loss = F.cross_entropy(model(inputs), labels)
    handle.remove()
    (at_stream,) = torch.autograd.grad(loss, streams, retain_graph=True)
    torch.testing.assert_close(found["stem.weight"], at_stream.T @ inputs)
    torch.testing.assert_close(found["stem.bias"], at_stream.sum(dim=0))
    torch.testing.assert_close(found["head.weight"], gradients(model, loss)["head.weight"])


def test_one_block_alone_gives_its_weights_their_whole_gradient_at_length_one():
    """The weights of the only branch that counts are one crossing away; what lies above it, none."""
    model, (inputs, labels) = chain(), batch()
    third = junctions(model, inputs)[2]
    whole = gradients(model, F.cross_entropy(model(inputs), labels))
    found = short_gradients(model, 0, inputs, labels, junctions=third)
    for name in whole:
        if name.startswith("branches.2"):
            assert not found[name].any()
        if name.startswith(("branches.3", "head")):
            torch.testing.assert_close(found[name], whole[name])
    again = short_gradients(model, 1, inputs, labels, junctions=[third])
    for name in whole:
        torch.testing.assert_close(again[name], whole[name])


def test_blocks_that_are_computed_again_have_the_same_short_paths():
    blocks = [Residual(nn.Sequential(mlp(3, 4, 3), nn.Dropout(0.5))) for _ in range(3)]
    kept, again = nn.Sequential(*blocks).double().train(), nn.Sequential(*map(Checkpointed, blocks)).train()
    inputs, labels = batch()
    for lengths in range(4):
        torch.manual_seed(5)
        expected = short_gradients(kept, lengths, inputs, labels)
        torch.manual_seed(5)
        found = short_gradients(again, lengths, inputs, labels)
        for one, other in zip(found.values(), expected.values(), strict=True):
            torch.testing.assert_close(one, other)


class Checkpointed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


def test_dropout_keeps_its_mask_within_a_step():
    model, (inputs, labels) = nn.Sequential(*[Residual(mlp(3, 4, 3)) for _ in range(3)]).double(), batch()
    for block in model:
        block.branch.append(nn.Dropout(0.5))
    model.train()
    torch.manual_seed(5)
    whole = gradients(model, F.cross_entropy(model(inputs), labels))
    torch.manual_seed(5)
    found = short_gradients(model, 3, inputs, labels)
    for name in whole:
        torch.testing.assert_close(found[name], whole[name])


def test_a_loop_of_ones_own():
    model, (inputs, labels) = chain(normalised=True), batch(examples=12)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    with short_paths(1).around(model, inputs[:6]) as step:
        for _ in range(15):
            for x, y in zip(inputs.split(6), labels.split(6), strict=True):
                optimiser.zero_grad()
                loss = F.cross_entropy(model(x), y)
                step.backward(loss)
                optimiser.step()
                losses.append(loss.item())
    assert step.number == 30
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


def test_losses_of_several_forwards_go_back_together():
    model, (inputs, labels) = chain(), batch()
    parts = [short_gradients(model, 2, inputs[half], labels[half]) for half in (slice(3), slice(3, 6))]
    model.zero_grad()
    with short_paths(2).around(model, inputs) as step:
        losses = [F.cross_entropy(model(inputs[half]), labels[half]) for half in (slice(3), slice(3, 6))]
        step.backward(losses[0] + losses[1])
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, parts[0][name] + parts[1][name])


def test_frozen_branches_have_nothing_to_delay():
    model, (inputs, labels) = chain(), batch()
    model.stem.requires_grad_(False)
    model.branches.requires_grad_(False)
    whole = gradients(model, F.cross_entropy(model(inputs), labels))
    assert short_gradients(model, 0, inputs, labels).keys() == whole.keys()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, whole[name])


def test_evaluation_inside_the_block_is_untouched():
    model, (inputs, labels) = chain(normalised=True), batch()
    model.eval()
    whole = gradients(model, F.cross_entropy(model(inputs), labels))
    with short_paths(0).around(model, inputs):
        inside = gradients(model, F.cross_entropy(model(inputs), labels))
    for name in whole:
        assert torch.equal(inside[name], whole[name])


class Stop(BaseException):
    pass


@pytest.mark.parametrize("where", ["entering", "forward", "backward", "body"])
def test_the_model_is_as_found_whatever_is_raised(where):
    model, (inputs, labels) = chain(), batch()
    model.branches[1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    def stop(*anything):
        raise Stop

    before = snapshot(model)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        if where == "entering":
            patch.setattr(torch.nn.functional, "linear", stop)
        with short_paths(2).around(model, inputs) as step:
            if where == "forward":
                patch.setattr(torch.nn.functional, "linear", stop)
            loss = F.cross_entropy(model(inputs), labels)
            if where == "body":
                raise Stop
            loss.register_hook(stop)
            step.backward(loss)
    assert_as_found(model, before)


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_finding_junctions_changes_nothing(batch_norm):
    model, (inputs, _) = chain(normalised=True), batch()
    model.branches[1].eval()
    if batch_norm == "eval":
        model.eval()
    before = snapshot(model)
    with short_paths(2).around(model, inputs):
        now = snapshot(model)
        kept = ("values", "gradients", "training", "torch", "requires_grad")
        assert {what: now[what] for what in kept} == {what: before[what] for what in kept}
    assert_as_found(model, before)


def test_gradients_that_know_nothing_of_lengths_are_refused():
    model, (inputs, labels) = chain(), batch()
    with short_paths(2).around(model, inputs) as step:
        loss = F.cross_entropy(model(inputs), labels)
        with pytest.raises(RuntimeError, match=r"by step.backward\(loss\), before the next one"):
            loss.backward()
        first, second = (F.cross_entropy(model(inputs), labels) for _ in range(2))
        step.backward(first)
        with pytest.raises(RuntimeError, match="there was none since the last one"):
            step.backward(second)
        model(inputs)
        with pytest.raises(RuntimeError, match="No gradient met a residual branch"):
            step.backward(model.head.weight.sum())
        model.eval()
        with pytest.raises(RuntimeError, match=r"Call model.train\(\)"):
            step.backward(F.cross_entropy(model(inputs), labels))
        model.train()
        kept = F.cross_entropy(model(inputs), labels)
    with pytest.raises(RuntimeError, match="Inside short_paths"):
        kept.backward()


def test_mistakes_are_told():
    model, (inputs, _) = chain(), batch()
    for wrong in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match="lengths is the most branches a path may cross, from 0"):
            short_paths(wrong)
    for option, network, message in [
        (short_paths(5), model, "no path through Chain crosses more than 4 branches. Ask for 0 to 4"),
        (short_paths(1), mlp(3, 4, 3).double(), "Sequential has no residual junction on this batch"),
        (short_paths(1, junctions="block*"), model, r"No junction matches 'block\*'"),
        (short_paths(1, junctions=junction_by_hand(model, "branches.1")), model, "is a junction by hand"),
    ]:
        with pytest.raises(ValueError, match=message), option.around(network, inputs):
            pass


def test_another_way_through_the_network_is_refused():
    class Deeper(Chain):
        def forward(self, x):
            x = super().forward(x)
            return x + x.sin() if len(x) > 6 else x

    model = Deeper().double().train()
    with (
        short_paths(1).around(model, batch()[0]),
        pytest.raises(
            RuntimeError, match="called 5 additions, but its junctions were found in one that called 4"
        ),
    ):
        model(batch(examples=7)[0])
