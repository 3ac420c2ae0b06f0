"""What is asked of every probe. The folder is the registry: a new probe is found here without a line."""

from contextlib import ExitStack, nullcontext

import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS
from torch import nn

from gradscope import probes

NETS = ["plain", "post-activation", "pre-norm transformer", "tokens", "shared weights", "frozen transformer"]


def passes(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """A user's forward and backward; the gradients of the input and of the parameters."""
    if x.is_floating_point():
        x = x.detach().clone().requires_grad_()
    wanted = [p for p in model.parameters() if p.requires_grad] + ([x] if x.is_floating_point() else [])
    return list(torch.autograd.grad(model(x).square().sum(), wanted, allow_unused=True))


def test_the_folder_is_the_registry():
    assert {"gradient_correlation", "gradient_norm", "co_activation"} <= set(probes.names())
    for name in probes.names():
        assert getattr(probes, name).__name__ == name
    with pytest.raises(
        AttributeError, match=r"There is no probe 'gradient'. The probes are: co_activation, "
    ):
        probes.gradient  # noqa: B018


@pytest.mark.parametrize("raised", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", probes.names())
def test_the_model_is_as_found(name, net, raised):
    specimen = NETWORKS[net]
    model, x = used(specimen.build()), specimen.inputs()
    before = snapshot(model)
    with pytest.raises(raised, match="body") if raised else nullcontext():
        with getattr(probes, name)(model):
            passes(model, x)
            if raised:
                raise raised("body")
    assert_as_found(model, before)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", probes.names())
def test_gradients_are_bit_for_bit_unchanged(name, net):
    specimen = NETWORKS[net]
    with getattr(probes, name)(specimen_model := specimen.build()):
        probed = passes(specimen_model, specimen.inputs())
    alone = passes(specimen.build(), specimen.inputs())
    assert len(probed) == len(alone)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(probed, alone, strict=True))


@pytest.mark.parametrize("name", probes.names())
def test_backward_into_grad_is_unchanged_too(name):
    specimen = NETWORKS["post-activation"]
    probed, alone = specimen.build(), specimen.build()
    with getattr(probes, name)(probed):
        probed(specimen.inputs()).square().sum().backward()
    alone(specimen.inputs()).square().sum().backward()
    assert all(
        torch.equal(a.grad, b.grad) for a, b in zip(probed.parameters(), alone.parameters(), strict=True)
    )


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", probes.names())
def test_readings_are_the_same_in_company_as_alone(name, net):
    specimen = NETWORKS[net]
    model, x = specimen.build(), specimen.inputs()
    with getattr(probes, name)(model) as alone:
        passes(model, x)
    with ExitStack() as stack:
        company = {n: stack.enter_context(getattr(probes, n)(model)) for n in probes.names()}
        again = stack.enter_context(getattr(probes, name)(model))
        passes(model, x)
    assert len(alone) > 0
    pd.testing.assert_frame_equal(company[name].frame(), alone.frame())
    pd.testing.assert_frame_equal(again.frame(), alone.frame())


@pytest.mark.parametrize("name", probes.names())
def test_nothing_is_heard_after_the_block(name):
    specimen = NETWORKS["post-activation"]
    model, x = specimen.build(), specimen.inputs()
    with getattr(probes, name)(model) as readings:
        passes(model, x)
        pending = model(x).square().sum()
        heard = len(readings)
    pending.backward()
    passes(model, x)
    assert len(readings) == heard > 0


@pytest.mark.parametrize("name", probes.names())
def test_a_users_hooks_fire_as_often_and_see_the_same(name):
    specimen = NETWORKS["out-of-place"]
    model, seen = specimen.build(), []
    for module in model.modules():
        module.register_forward_hook(lambda module, arguments, output: seen.append(output.detach().clone()))
        module.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].clone()))
    passes(model, specimen.inputs())
    alone = list(seen)
    seen.clear()
    with getattr(probes, name)(model):
        passes(model, specimen.inputs())
    assert len(seen) == len(alone) > 0
    assert all(torch.equal(a, b) for a, b in zip(seen, alone, strict=True))


@pytest.mark.parametrize("name", probes.names())
def test_readings_are_tidy(name):
    specimen = NETWORKS["plain"]
    model = specimen.build()
    with getattr(probes, name)(model) as readings:
        passes(model, specimen.inputs())
    frame = readings.frame()
    assert list(frame.columns) == ["quantity", "unit", "site", "depth", "call", "value", "status", "reason"]
    assert list(frame["site"]) == ["0", "2", "4"] and list(frame["depth"]) == [0, 1, 2]
    assert (frame["status"] == "ok").all() and frame["value"].notna().all()


@pytest.mark.parametrize("name", probes.names())
def test_an_unknown_site_is_refused(name):
    with pytest.raises(ValueError, match="No site of Linear matches 'blocks"):
        with getattr(probes, name)(nn.Linear(2, 2), at="blocks.*"):
            pass


@pytest.mark.parametrize("name", probes.names())
def test_a_probe_costs_no_pass_and_draws_nothing(name):
    specimen = NETWORKS["encoder layers"]
    model, x = specimen.build().train(), specimen.inputs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        alone = passes(model, x)
        torch.manual_seed(0)
        with getattr(probes, name)(model):
            probed = passes(model, x)
    assert all(torch.equal(a, b) for a, b in zip(probed, alone, strict=True))
