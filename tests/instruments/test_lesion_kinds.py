"""Lesions of every kind against forwards written out by hand."""

import itertools
from collections import Counter

import pytest
import torch
from as_found import assert_as_found, snapshot
from hand_written import HAND_WRITTEN, blocks
from networks import NETWORKS
from torch import nn

from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import junctions


def everything(name):
    """Network, inputs, reference inputs, junctions, and the forward written out."""
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs(5)
    reference = NETWORKS[name].inputs(12)[5:] * 1.5
    return model, x, reference, junctions(model, x), HAND_WRITTEN[name]


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_the_forwards_written_out_are_those_of_the_networks(name):
    model, x, _, found, forward = everything(name)
    assert torch.equal(forward(model, x), model(x)) and len(found) == blocks(name)


@pytest.mark.parametrize("name", HAND_WRITTEN)
@pytest.mark.parametrize("place", [0, -1, "all"])
def test_zero_and_scale(name, place):
    model, x, _, found, forward = everything(name)
    hit = list(range(len(found))) if place == "all" else [range(len(found))[place]]
    for kind, factor in (("zero", None), ("scale", 0.3), ("scale", -2.0), ("scale", 1.0)):
        multiple = 0.0 if factor is None else factor
        expected = forward(model, x, lambda i, operand, value, m=multiple: value * m if i in hit else value)
        with lesion(model, [found[i] for i in hit], kind=kind, factor=factor):
            assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_the_mean_of_the_current_batch(name):
    model, x, _, found, forward = everything(name)

    def mean(place, operand, value):
        if place not in (1, len(found) - 1):
            return value
        return torch.stack([sum(row for row in value) / len(value)] * len(value))

    with lesion(model, [found[1], found[-1]], kind="mean"):
        torch.testing.assert_close(model(x), forward(model, x, mean), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", HAND_WRITTEN)
@pytest.mark.parametrize("batches", [1, 3])
def test_the_mean_of_a_reference_is_that_of_the_intact_network(name, batches):
    model, x, reference, found, forward = everything(name)
    heard = {}

    def listen(place, operand, value):
        heard[place, operand] = sum(row for row in value.detach()) / len(value)
        return value

    forward(model, reference, listen)
    expected = forward(
        model, x, lambda i, o, value: heard[i, o].expand_as(value) if i in (0, len(found) - 1) else value
    )
    given = reference if batches == 1 else list(reference.split(3))
    before = snapshot(model)
    with lesion(model, [found[0], found[-1]], kind="mean", reference=given):
        for _ in range(2):
            torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(model(x[:1]), expected[:1], rtol=1e-12, atol=1e-13)
    assert_as_found(model, before)


def rows_taken(values, rows):
    """For each row, which one of `values` it is."""
    return [next(i for i, value in enumerate(values) if torch.equal(value, row)) for row in rows]


@pytest.mark.parametrize("name", ["post-activation", "pre-activation", "parallel transformer", "padding"])
@pytest.mark.parametrize("referred", [False, True])
def test_resampling_puts_a_whole_row_of_another_example(name, referred):
    """Which donors were drawn is found by trying all; nothing else than a choice of donors explains the output."""
    model, x, reference, found, forward = everything(name)
    x, reference = x[:3], reference[:3]
    target = found[1]
    heard = {}

    def listen(place, operand, value):
        heard[place, operand] = value.detach().clone()
        return value

    forward(model, reference if referred else x, listen)
    with lesion(model, target, kind="resample", reference=reference if referred else None, seed=4):
        resampled = model(x)
        assert torch.equal(model(x), resampled), "the same donors in each forward"
    explained = [
        donors
        for donors in itertools.product(range(3), repeat=3)
        if torch.allclose(
            forward(model, x, lambda i, o, v, d=donors: heard[i, o][list(d)] if i == 1 else v),
            resampled,
            rtol=1e-12,
            atol=1e-13,
        )
    ]
    assert len(explained) == 1
    if not referred:
        assert sorted(explained[0]) == [0, 1, 2] and all(i != donor for i, donor in enumerate(explained[0]))


class Shown(nn.Module):
    """x + 0 x + b(x) with an identity-like branch, so that the output tells which donor every row had."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.branch.weight)

    def forward(self, x):
        return x + self.branch(x)


def donors_of(model, junction, x, **options):
    with lesion(model, junction, kind="resample", **options), torch.no_grad():
        return (model(x) - x).flatten().round().long().tolist()


def test_donors_are_drawn_fairly_and_without_the_users_random_numbers():
    model, x = Shown().double(), torch.arange(4.0, dtype=torch.float64)[:, None]
    junction = junctions(model, x)[0]
    before = torch.get_rng_state()
    cycles = Counter(tuple(donors_of(model, junction, x, seed=seed)) for seed in range(600))
    reference = x + 10
    drawn = Counter(
        d for seed in range(300) for d in donors_of(model, junction, x, seed=seed, reference=reference)
    )
    assert torch.equal(torch.get_rng_state(), before)
    # Six cycles of four examples, each of probability 1/6, and 1200 draws from four: within five standard errors.
    assert len(cycles) == 6 and all(abs(n - 100) < 5 * (600 * 5 / 36) ** 0.5 for n in cycles.values())
    assert set(drawn) == {10, 11, 12, 13} and all(abs(n - 300) < 5 * 15 for n in drawn.values())
    assert all(sorted(c) == [0, 1, 2, 3] and all(c[i] != i for i in range(4)) for c in cycles)


def test_a_junction_draws_the_same_in_other_company():
    model, _, x, found, _ = everything("pre-activation")
    heard = []

    def first_branch():
        handle = model[3].register_forward_hook(
            lambda module, a, output: heard.append(output.detach().clone())
        )
        model(x)
        handle.remove()

    with lesion(model, found[1], kind="resample", seed=7):
        first_branch()
    with lesion(model, [found[1], found[4]], kind="resample", seed=7):
        first_branch()
    with lesion(model, [found[1], found[4]], kind="resample", seed=8):
        first_branch()
    assert torch.equal(heard[0], heard[1]) and not torch.equal(heard[0], heard[2])


@pytest.mark.parametrize("name", ["post-activation", "out-of-place", "pre-norm transformer", "padding"])
@pytest.mark.parametrize("kind", ["zero", "scale", "mean", "mean of a reference"])
def test_gradients_are_those_of_the_forward_written_out(name, kind):
    model, x, reference, found, forward = everything(name)
    x.requires_grad_()
    heard = {}

    def listen(place, operand, value):
        heard[place] = value.detach().mean(dim=0)
        return value

    forward(model, reference, listen)
    changes = {
        "zero": lambda value: value * 0,
        "scale": lambda value: value * 0.3,
        "mean": lambda value: value.mean(dim=0).expand_as(value),
        "mean of a reference": lambda value: heard[1].expand_as(value),
    }
    wanted = [x, *model.parameters()]
    expected = torch.autograd.grad(
        forward(model, x, lambda i, o, v: changes[kind](v) if i == 1 else v).square().sum(),
        wanted,
        materialize_grads=True,
    )
    options = {"factor": 0.3} if kind == "scale" else {}
    options |= {"reference": reference} if kind.endswith("reference") else {}
    with lesion(model, found[1], kind=kind.split()[0], **options):
        actual = torch.autograd.grad(model(x).square().sum(), wanted, materialize_grads=True)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["pre-norm transformer", "inside a module"])
@pytest.mark.parametrize(
    "options", [{}, {"kind": "mean"}, {"kind": "resample"}, {"kind": "resample", "seed": 1}]
)
def test_gradients_are_those_of_finite_differences(name, options):
    model, x, _, found, _ = everything(name)
    with lesion(model, [found[0], found[2]], **options):
        assert torch.autograd.gradcheck(model, x[:3].requires_grad_())


def test_a_reference_run_leaves_a_network_in_training_as_it_was():
    model, _, reference, found, _ = everything("post-activation")
    model.train()
    before = snapshot(model)
    with lesion(model, found[2], kind="mean", reference=reference):
        assert_values_as(model, before)
    assert_as_found(model, before)


def assert_values_as(model, before):
    now = snapshot(model)
    assert all(now[what] == before[what] for what in ("values", "training", "torch", "gradients"))


def test_a_reference_of_several_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Linear(3, 3)

        def forward(self, x, shift):
            return x + self.branch(x * shift)

    model, x, shift = Two().double(), torch.randn(4, 3).double(), torch.randn(4, 1).double()
    found = junctions(model, x, shift)
    expected = x + model.branch(x * shift).mean(dim=0)
    for reference in (
        (x, shift),
        {"x": x, "shift": shift},
        [(x[:1], shift[:1]), {"x": x[1:], "shift": shift[1:]}],
    ):
        with lesion(model, found, kind="mean", reference=reference):
            torch.testing.assert_close(model(x, shift), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "noise"}, r"A lesion is of kind zero, mean, resample, scale, got 'noise'"),
        ({"kind": "scale"}, r"factor belongs to kind='scale', which needs it; got kind='scale'"),
        ({"factor": 0.5}, r"factor belongs to kind='scale', .* got kind='zero' and factor=0.5"),
        ({"kind": "scale", "factor": float("nan")}, r"factor is a finite number, got nan"),
        ({"reference": torch.zeros(2)}, r"reference belongs to kind='mean' and 'resample'"),
        ({"kind": "mean", "reference": []}, r"reference is an empty list"),
    ],
)
def test_wrong_options(options, message):
    model, _, _, found, _ = everything("padding")
    with pytest.raises(ValueError, match=message):
        with lesion(model, found[0], **options):
            pass


@pytest.mark.parametrize("kind", ["mean", "resample"])
def test_what_has_no_other_example_is_refused(kind):
    model, x, reference, found, _ = everything("pre-norm transformer")
    with (
        lesion(model, found[0], kind=kind),
        pytest.raises(ValueError, match=r"0:0 .* at least 2 examples .* got 1"),
    ):
        model(x[:1])
    with lesion(model, found[0], kind=kind, reference=reference[:1]):
        model(x[:1])
    with lesion(model, found[0], kind=kind, reference=reference[:, :3]):
        with pytest.raises(ValueError, match=r"shape \[3, 4\] per example, but here they are \[5, 4\]"):
            model(x)


def test_operands_without_a_row_per_example_are_refused():
    class Flattened(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Linear(4, 4)

        def forward(self, x):
            tokens = x.flatten(end_dim=1)
            return (tokens + self.branch(tokens)).view_as(x)

    model, x = Flattened(), torch.randn(3, 5, 4)
    found = junctions(model, x)
    with lesion(model, found, kind="mean"):
        with pytest.raises(ValueError, match=r"at junction :0 the forward of 3 examples has .* \[15, 4\]"):
            model(x)
