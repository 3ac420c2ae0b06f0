"""Shared prefixes in networks that could be misled by them: still what whole passes give, and the model as found."""

from itertools import combinations

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import mlp
from resumable_nets import Counts, Keeps, Picks, PicksInside, PicksSkip, Tells
from torch import nn

import gradscope as gs
from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import trace
from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.resume.attributes import attributes_kept
from gradscope.instruments.resume.hollow import Hollow, OutOfStep, Tape
from gradscope.instruments.resume.resumable import Resumable

SETS = [set(), *({place} for place in range(4)), *map(set, combinations(range(4), 2)), {0, 1, 2, 3}]


def built(make):
    torch.manual_seed(1)
    model = make().double().eval()
    return model, torch.randn(6, 4, dtype=torch.float64)


def resumable(model, example):
    traced = trace(model, model, example)
    return Resumable(model, model, [j for j in traced.junctions if j.branches], traced, example)


def assert_as_whole_passes(resuming, inputs, sets):
    outputs = dict(resuming.outputs(inputs, sets))
    for place, closed in enumerate(sets):
        with torch.no_grad(), additions(resuming.model):
            with lesion(resuming.model, [resuming.junctions[junction] for junction in sorted(closed)]):
                assert torch.equal(outputs[place], resuming.model(inputs)), closed


@pytest.mark.parametrize("make", [Picks, PicksInside, PicksSkip])
def test_the_same_calls_on_other_operands_take_whole_passes(make):
    model, inputs = built(make)
    resuming = resumable(model, inputs[:2])
    assert resuming.reason == ""
    sets = [closed for closed in SETS if max(closed, default=0) < len(resuming.junctions)]
    assert_as_whole_passes(resuming, inputs[:3], sets)
    assert not resuming.strayed
    with pytest.warns(UserWarning, match="another way"):
        assert_as_whole_passes(resuming, inputs, sets)
    assert resuming.strayed


def test_what_modules_hand_on_is_that_of_the_batch():
    model, inputs = built(Tells)
    resuming = resumable(model, inputs[:2])
    assert resuming.cost([{place} for place in range(4)]) == 10
    assert_as_whole_passes(resuming, inputs, SETS)


SELECTED = {
    "nonzero": lambda h: (h > 0).nonzero(),
    "where": lambda h: torch.where(h > 0)[1],
    "masked_select": lambda h: h.masked_select(h > 0),
    "boolean index": lambda h: h[h > 0],
    "boolean index of two": lambda h: h[:, None][h[:, 0] > 0, :],
    "unique": lambda h: h.relu().unique(),
    "unique_consecutive": lambda h: torch.unique_consecutive(h.relu().flatten()),
    "repeat_interleave": lambda h: torch.repeat_interleave(h[:, 0], (h[:, 0] > 0).long()),
    "bincount": lambda h: torch.bincount((4 * h.relu()).long().flatten()),
    "a tensor as a size": lambda h: torch.arange((h > 0).sum()),
    "derived": lambda h: 2 * h[h > 0].abs().exp(),
    "cat": lambda h: torch.cat([h.flatten(), h[h > 0]]),
}


@pytest.mark.parametrize("name", SELECTED)
def test_a_shape_that_depends_on_numbers_is_a_number_that_python_sees(name):
    model, inputs = built(lambda: Counts(SELECTED[name]))
    sizes = set()
    with torch.no_grad():
        h = model.stem(inputs)
        for value in (h, h + model.branches[0](h)):
            sizes.add(len(SELECTED[name](value)))
    resuming = resumable(model, inputs[:2])
    # Three passes go on from the first sum, before which nothing is read; the first two begin at the start.
    assert resuming.cost([{place} for place in range(4)]) == 4 + 3 + 2 + 2
    assert_as_whole_passes(resuming, inputs, SETS)
    assert len(sizes) == 2


def test_a_shape_that_does_not_depend_on_numbers_costs_no_place_to_enter():
    model, inputs = built(lambda: Counts(lambda h: h[torch.tensor([0, 1, 1])]))
    assert resumable(model, inputs[:2]).cost([{place} for place in range(4)]) == 10


def attributes(model):
    held = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            contents = (
                list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else 0
            )
            held[name, key] = id(value), str(contents)
    return held


@pytest.mark.parametrize("used", [True, False])
def test_attributes_are_put_back(used):
    model, inputs = built(Keeps)
    example = inputs[:2]
    traced = trace(model, model, example)
    if used:
        model(inputs)
    before, held = snapshot(model), attributes(model)
    resuming = Resumable(model, model, [j for j in traced.junctions if j.branches], traced, example)
    assert resuming.cost([{place} for place in range(4)]) == 10
    outputs = dict(resuming.outputs(inputs, SETS))
    assert_as_found(model, before)
    assert attributes(model) == held
    with torch.no_grad(), additions(model):
        for place, closed in enumerate(SETS):
            with lesion(model, [resuming.junctions[junction] for junction in closed]):
                assert torch.equal(outputs[place], model(inputs))


def test_attributes_are_put_back_when_a_gate_raises():
    model, inputs = built(Keeps)
    resuming = resumable(model, inputs[:2])
    held, calls = attributes(model), []

    def gate(value):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return torch.zeros_like(value)

    with pytest.raises(KeyboardInterrupt):
        list(resuming.outputs(inputs, SETS, gate))
    assert attributes(model) == held


def test_a_study_of_a_network_that_stores_values_leaves_none_that_was_left_out():
    model, inputs = built(Keeps)
    gs.lesion_study((model, inputs), metric="kl", sets=[], groups=None, show=False)
    assert not model.busy
    for value in (model.first, model.latest, model.cache["stem"], *model.values, model.branches[0].seen):
        assert not isinstance(value, Hollow) and value.isfinite().all()


def test_a_hollow_tensor_tells_its_form_and_nothing_else():
    tape = Tape(frozenset({1}))
    tape.append(torch.relu, torch.zeros(2, 3, dtype=torch.bool))
    tape.append(torch.nonzero, torch.zeros(5, 2))
    hollow, data_shaped, other = tape.answer(0), tape.answer(1), torch.ones(2, 3)
    assert hollow.shape == (2, 3) and len(hollow) == 2 and hollow.dtype == torch.bool and hollow.numel() == 6
    reads = [
        lambda: hollow.any(),
        lambda: hollow.data,
        lambda: hollow.stride(),
        lambda: bool(hollow[0, 0]),
        lambda: other[hollow],
        lambda: other.__setitem__(hollow, 0.0),
        lambda: other.masked_fill(hollow, 0.0),
        lambda: torch.cat([other, hollow]),
        lambda: torch.where(condition=hollow, input=other, other=other),
        lambda: nn.functional.relu(hollow),
        lambda: data_shaped.shape,
    ]
    for read in reads:
        with pytest.raises(OutOfStep, match="holds no numbers"):
            read()


def test_very_long_chains_have_a_bounded_number_of_places_to_enter(monkeypatch):
    monkeypatch.setattr("gradscope.instruments.resume.cuts.MOST_CUTS", 4)
    monkeypatch.setattr("gradscope.instruments.resume.program.MOST_CUTS", 4)

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList([mlp(4, 3, 4) for _ in range(10)])

        def forward(self, x):
            for branch in self.branches:
                x = x + branch(x)
            return x

    model, inputs = built(Chain)
    resuming = resumable(model, inputs[:2])
    assert [cut.place for cut in resuming._program.cuts] == [1, 3, 5, 7]
    assert all(resuming._program.idle)
    singles = [{place} for place in range(10)]
    # A set enters at the latest cut before the branch that it closes.
    entered = [0, 1, 1, 3, 3, 5, 5, 7, 7, 7]
    assert resuming.cost(singles) <= sum(10 - start for start in entered)
    assert_as_whole_passes(resuming, inputs, [*singles, {0, 9}, {2, 3, 8}])


def test_what_a_hook_leaves_on_a_layer_of_torchs_own_is_put_back_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].register_forward_hook(lambda module, given, output: setattr(module, "heard", output))
    before = [dict(vars(module)) for module in model.modules()]
    with attributes_kept(model):
        model(torch.randn(3, 2))
        assert "heard" in vars(model[1])
    assert [dict(vars(module)).keys() for module in model.modules()] == [kept.keys() for kept in before]
