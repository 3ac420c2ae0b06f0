"""Gates within gates: the innermost acts on an operand first, whatever kinds meet."""

import itertools
from contextlib import ExitStack

import pytest
import torch
from as_found import assert_as_found, snapshot
from hand_written import HAND_WRITTEN
from networks import NETWORKS

from gradscope.instruments.gates import (
    bypass,
    cut_skips,
    junction_by_hand,
    lesion,
    scale_branches,
    stochastic_depth,
)
from gradscope.instruments.junctions import junctions


def mean(value):
    return value.mean(dim=0, keepdim=True).expand_as(value)


# What each does to the branch operands of the junctions it is given.
GATES = {
    "zero": (lambda model, at: lesion(model, at), lambda value: value * 0),
    "mean": (lambda model, at: lesion(model, at, kind="mean"), mean),
    "scaled lesion": (
        lambda model, at: lesion(model, at, kind="scale", factor=-2.0),
        lambda value: value * -2.0,
    ),
    "scaled": (lambda model, at: scale_branches(model, at, 0.5), lambda value: value * 0.5),
    "expected": (
        lambda model, at: stochastic_depth(model, at, survival=[0.3] * len(at), training=False),
        lambda value: value * 0.3,
    ),
    "dropped": (
        lambda model, at: stochastic_depth(model, at, survival=[0.0] * len(at), training=True),
        lambda value: value * 0,
    ),
}
SPECIMENS = ["post-activation", "parallel transformer"]


@pytest.mark.parametrize("name", SPECIMENS)
@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(GATES, repeat=2)))
def test_two_gates_compose_on_a_shared_junction_and_add_up_on_others(name, outer, inner):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    found = list(junctions(model, x))
    around, within = found[:2], found[1:3]

    def change(place, operand, value):
        for gate, at in ((inner, within), (outer, around)):
            if place in [j.index for j in at]:
                value = GATES[gate][1](value)
        return value

    expected = HAND_WRITTEN[name](model, x, change)
    before = snapshot(model)
    with GATES[outer][0](model, around), GATES[inner][0](model, within):
        for _ in range(2):
            torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)
    assert_as_found(model, before)


@pytest.mark.parametrize("name", SPECIMENS)
@pytest.mark.parametrize("gate", GATES)
def test_a_gate_with_cut_skips_inside_and_outside(name, gate):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    found = list(junctions(model, x))
    expected = HAND_WRITTEN[name](
        model,
        x,
        lambda i, o, v: GATES[gate][1](v) if i == 1 else v,
        lambda i, o, v: v * 0 if i in (0, 1) else v,
    )
    for order in (1, -1):
        blocks = [cut_skips(model, found[:2]), GATES[gate][0](model, found[1:2])][::order]
        with blocks[0], blocks[1]:
            torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_with_a_bypassed_block_inside_and_outside(gate):
    """The bypassed block's own gate has nothing left to act on; its numbers stay."""
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    found = list(junctions(model, x))
    blocks = [layer for place, layer in enumerate(model) if place != 5]
    without = torch.nn.Sequential(*blocks).eval()
    with GATES[gate][0](without, [junctions(without, x)[1], junctions(without, x)[4]]):
        expected = without(x)
    for order in (1, -1):
        contexts = [bypass(model, "5"), GATES[gate][0](model, [found[1], found[3], found[5]])][::order]
        with contexts[0], contexts[1]:
            torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(GATES, repeat=2)))
def test_gates_compose_the_same_on_junctions_by_hand(outer, inner):
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    by_hand = [junction_by_hand(model, "3.bn2")]
    expected = HAND_WRITTEN["post-activation"](
        model, x, lambda i, o, v: GATES[outer][1](GATES[inner][1](v)) if i == 1 else v
    )
    with GATES[outer][0](model, by_hand), GATES[inner][0](model, by_hand):
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)


def test_a_junction_listed_twice_is_gated_twice():
    specimen = NETWORKS["padding"]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    by_hand = junction_by_hand(model, "1.branch")
    for twice in ([found[0], found[0]], [by_hand, by_hand], [by_hand, found[0]]):
        with scale_branches(model, twice, [0.5, -3.0]):
            actual = model(x)
        expected = HAND_WRITTEN["padding"](model, x, lambda i, o, v: v * 0.5 * -3.0 if i == 0 else v)
        torch.testing.assert_close(actual, expected)


def test_a_reference_is_run_under_the_gates_around():
    """Inside another gate's block the network is the gated one, and the mean is that of its branches."""
    specimen = NETWORKS["pre-norm transformer"]
    model, x = specimen.build(), specimen.inputs()
    found, reference = junctions(model, x), specimen.inputs(9)[4:]
    heard = {}

    def closed_first(place, operand, value):
        return value * 0 if place == 0 else heard.setdefault(place, value)

    forward = HAND_WRITTEN["pre-norm transformer"]
    forward(model, reference, closed_first)
    expected = forward(
        model, x, lambda i, o, v: v * 0 if i == 0 else mean(heard[3])[:1] + v * 0 if i == 3 else v
    )
    with lesion(model, found[0]), lesion(model, found[3], kind="mean", reference=reference):
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_all_at_once_leave_the_model_as_found_when_the_body_raises(raised):
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build().train(), specimen.inputs()
    found = junctions(model, x)
    before = snapshot(model)
    with pytest.raises(raised, match="body"):
        with ExitStack() as stack:
            for enter, _ in GATES.values():
                stack.enter_context(enter(model, list(found[:3])))
            stack.enter_context(lesion(model, found[4], kind="resample", reference=x))
            stack.enter_context(cut_skips(model, found))
            stack.enter_context(bypass(model, "4"))
            stack.enter_context(lesion(model, junction_by_hand(model, "6.bn2")))
            raise raised("body")
    assert_as_found(model, before)
