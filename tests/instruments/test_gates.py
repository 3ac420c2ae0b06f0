"""Lesions against networks from which the branch is really gone."""

from dataclasses import replace

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import NETWORKS, RESIDUAL, Residual, mlp
from torch import nn

from gradscope.instruments.gates import (
    bypass,
    closable,
    cut_skips,
    lesion,
    scale_branches,
    stochastic_depth,
)
from gradscope.instruments.junctions import junctions


def last_layers(name: str, model: nn.Module, place: int) -> list[nn.Module]:
    """The layers that end the branches of the graded junction number `place` of level 0."""
    if name in ("post-activation", "out-of-place", "frozen"):
        return [model[2 + place].bn2]
    if name == "pre-activation":
        return [model[2 + place].branch[-1]]
    if name in ("pre-norm transformer", "frozen transformer"):
        layer = model[place // 2]
        return [layer.mlp[-1] if place % 2 else layer.attention.out]
    if name == "tokens":
        return [model.blocks[0].mlp[-1] if place else model.blocks[0].attention.out]
    if name == "parallel transformer":
        return [model[place].mlp[-1], model[place].attention.out]
    if name == "encoder layers":
        layer = model[place // 2]
        return [layer.linear2 if place % 2 else layer.self_attn.out_proj]
    if name in ("multi-residual", "Python sum"):
        return [model[2 + place].first[-1], model[2 + place].second[-1]]
    if name == "in place on a view":
        return [model[place].branch[-1]]
    if name == "padding":
        return [model[1 + place].branch[-1]]
    if name == "inside a module":
        return [model[2 + place].back]
    raise KeyError(name)


@pytest.mark.parametrize("name", [n for n in RESIDUAL if n not in ("shared weights", "long skip")])
def test_a_lesion_is_a_branch_whose_last_layer_is_zero(name):
    """Bit for bit (T15), for each branch; and the intact model is as before."""
    specimen = NETWORKS[name]
    x = specimen.inputs()
    for place in range(len(specimen.branches)):
        model, zeroed = specimen.build(), specimen.build()
        found = [j for j in junctions(model, x) if j.level == 0]
        intact = model(x)
        with torch.no_grad():
            for layer in last_layers(name, zeroed, place):
                for parameter in layer.parameters():
                    parameter.zero_()
        before = snapshot(model)
        with lesion(model, found[place]):
            lesioned = model(x)
        assert_as_found(model, before)
        assert torch.equal(lesioned, zeroed(x))
        assert not torch.equal(lesioned, intact)
        assert torch.equal(model(x), intact)


@pytest.mark.parametrize("name", RESIDUAL)
def test_no_lesion_is_the_intact_network(name):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    intact = model(x)
    with lesion(model, []):
        assert torch.equal(model(x), intact)


@pytest.mark.parametrize("name", ["post-activation", "out-of-place"])
def test_closing_all_branches_leaves_the_chain_of_skips(name):
    """Projections stay (T16)."""
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    with torch.no_grad():
        state = model[1](model[0](x))
        for block in model[2:8]:
            state = (state if block.down is None else block.down(state)).relu()
        with lesion(model, list(junctions(model, x))):
            assert torch.equal(model(x), model[8:](state))


def test_a_lesion_of_one_use_of_shared_weights():
    specimen = NETWORKS["shared weights"]
    model, x = specimen.build(), specimen.inputs()
    block = model[2].block
    state = model[1](model[0](x))
    for use in range(4):
        state = state if use == 2 else block(state)
    with lesion(model, junctions(model, x)[2]):
        assert torch.equal(model(x), model[3](state))


def test_nested_lesions_add_up():
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    with lesion(model, [found[1], found[4]]):
        together = model(x)
    with lesion(model, found[4]), lesion(model, found[1]):
        assert torch.equal(model(x), together)


@pytest.mark.parametrize("name", ["post-activation", "out-of-place", "pre-norm transformer"])
def test_gradients_under_a_lesion_are_those_of_the_network_without_the_branch(name):
    specimen = NETWORKS[name]
    model, zeroed, x = specimen.build(), specimen.build(), specimen.inputs().requires_grad_()
    with torch.no_grad():
        for parameter in (p for layer in last_layers(name, zeroed, 2) for p in layer.parameters()):
            parameter.zero_()
    found = junctions(model, x)
    with lesion(model, found[2]):
        lesioned = torch.autograd.grad(model(x).square().sum(), x)[0]
    expected = torch.autograd.grad(zeroed(x).square().sum(), x)[0]
    torch.testing.assert_close(lesioned, expected, rtol=1e-12, atol=1e-14)


def test_lesions_work_for_another_batch_size_and_under_no_grad():
    specimen = NETWORKS["pre-norm transformer"]
    model = specimen.build()
    found = junctions(model, specimen.inputs(2))
    x = specimen.inputs(7)
    with lesion(model, found[1]):
        with_gradients = model(x)
        with torch.no_grad():
            assert torch.equal(model(x), with_gradients)


class MoreInTraining(nn.Module):
    """Adds twice in train mode, once in eval mode."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Residual(mlp(4, 3, 4)), Residual(mlp(4, 3, 4))

    def forward(self, x):
        return self.second(self.first(x) if self.training else x)


def test_a_forward_with_another_number_of_additions_is_refused():
    model, x = MoreInTraining().eval(), torch.randn(3, 4)
    found = junctions(model, x)
    model.train()
    with (
        lesion(model, found[0]),
        pytest.raises(RuntimeError, match=r"called 2 additions, .* one that called 1"),
    ):
        model(x)


GATES = {
    "lesion": lesion,
    "scale_branches": lambda model, junctions: scale_branches(model, junctions, 0.5),
    "cut_skips": cut_skips,
    "stochastic_depth": stochastic_depth,
}


@pytest.mark.parametrize("name", GATES)
def test_junctions_without_a_branch_to_close_are_refused(name):
    specimen = NETWORKS["highway"]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    with pytest.raises(ValueError, match=r"2:0 is of kind gated, .* bypass\(model, at=...\) with the path"):
        with GATES[name](model, found[0]):
            pass
    several = replace(found[0], kind="branches")
    unseen = replace(found[0], kind="identity", branches=(), skips=())
    for junction in (several, unseen):
        assert not closable(junction)
        with pytest.raises(
            ValueError, match=rf"2:0 is of kind {junction.kind} with .* Choose identity, .*by_hand"
        ):
            with GATES[name](model, junction):
                pass


def test_a_bypassed_highway_layer_has_a_transform_gate_of_zero():
    specimen = NETWORKS["highway"]
    model, shut, x = specimen.build(), specimen.build(), specimen.inputs()
    nn.init.zeros_(shut[3].gate.weight)
    nn.init.constant_(shut[3].gate.bias, -float("inf"))
    with bypass(model, "3"):
        assert torch.equal(model(x), shut(x))


@pytest.mark.parametrize("name", GATES)
def test_junctions_of_another_network_are_refused(name):
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    with pytest.raises(ValueError, match=r"7:0 lies in module '7', which Sequential does not have"):
        with GATES[name](model[:3], [found[0], found[5]]):
            pass
    shorter = nn.Sequential(*model[:4], nn.Identity(), *model[5:]).eval()
    with GATES[name](shorter, found[0]), pytest.raises(RuntimeError, match=r"called 5 .* one that called 6"):
        shorter(x)
    with pytest.raises(ValueError, match=r"found in different forwards, which called 6 and 7 additions"):
        with GATES[name](model, [found[0], replace(found[1], additions=7)]):
            pass


@pytest.mark.parametrize("name", GATES)
def test_no_junctions_change_nothing(name):
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    before = snapshot(model)
    with GATES[name](model, []):
        assert_as_found(model, before)
        inside = model(x)
    assert torch.equal(inside, model(x))


def test_bypass_is_the_network_without_the_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(5, 4)
    kept = x.clone()
    with bypass(model, "0"):
        assert torch.equal(model(x), model[4](model[3](model[2](kept.relu()))))
    assert torch.equal(x, kept), "the in-place layer behind the bypass must not overwrite the user's inputs"
    with bypass(model, "1"):
        assert torch.equal(model(x), model[4](model[3](model[2](model[0](x)))))


def test_bypass_refuses_what_changes_the_shape_and_what_is_not_there():
    model = nn.Sequential(nn.Linear(4, 3))
    with bypass(model, "0"), pytest.raises(ValueError, match=r"0 maps \[2, 4\] to \[2, 3\]"):
        model(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"Sequential has no module 'blocks.0'. Close names: 0"):
        with bypass(model, "blocks.0"):
            pass
    for at, told in (([], "at least one module, got none"), (0, "no module 0. Modules are named by strings")):
        with pytest.raises(ValueError, match=told):
            with bypass(model, at):
                pass


def test_bypass_of_a_module_with_keywords_and_a_tuple_of_outputs():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, *, scale, states):
            return self.linear(states) * scale, scale

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Layer(), Layer()

        def forward(self, x):
            x, _ = self.first(scale=2.0, states=x)
            return self.second(scale=3.0, states=x)

    model, x = Net(), torch.randn(2, 3)
    with bypass(model, "first"):
        states, scale = model(x)
    assert scale == 3.0 and torch.equal(states, model.second.linear(x) * 3.0)


def test_bypass_refuses_modules_without_tensors():
    class Counts(nn.Module):
        def forward(self, number):
            return number + 1

    model = nn.Sequential(Counts())
    with bypass(model, "0"), pytest.raises(ValueError, match=r"0 was given no tensor to hand on"):
        model(3)
