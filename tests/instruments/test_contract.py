"""Every instrument leaves the model and the random states as found, whatever happens in its block."""

from contextlib import ExitStack, nullcontext

import numpy
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS
from torch import nn

from gradscope.gradients.live import open_paths
from gradscope.instruments.batch_norm import MODES, batch_norm
from gradscope.instruments.gates import (
    bypass,
    cut_skips,
    junction_by_hand,
    lesion,
    scale_branches,
    stochastic_depth,
)
from gradscope.instruments.gates.delay import delays
from gradscope.instruments.gates.polynomial import Gate
from gradscope.instruments.gates.rewiring import parallel, reorder, repeat, skipped
from gradscope.instruments.junctions import junctions, trace
from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.listen import on_gradient, on_output
from gradscope.instruments.quiet import left_as_found
from gradscope.instruments.recalibrate import recalibrated
from gradscope.instruments.sites import sites
from gradscope.problem import Problem

SPECIMEN = NETWORKS["post-activation"]
GATES = ("lesion", "lesion by hand", "scale_branches", "cut_skips", "stochastic_depth", "bypass")


def nothing(*heard):
    pass


def traced(model, x):
    return trace(model, lambda given: model(given).sum(), x)


INSTRUMENTS = {
    "left_as_found": lambda model, x: left_as_found(model),
    **{f"batch_norm {mode}": lambda model, x, mode=mode: batch_norm(model, mode) for mode in MODES},
    "on_output": lambda model, x: on_output(sites(model), nothing),
    "on_gradient": lambda model, x: on_gradient(sites(model), nothing),
    "additions": lambda model, x: additions(model, report=nothing),
    "lesion": lambda model, x: lesion(model, list(junctions(model, x))),
    "mean lesion": lambda model, x: lesion(model, junctions(model, x), kind="mean", reference=x),
    "resampled lesion": lambda model, x: lesion(model, junctions(model, x), kind="resample", reference=x),
    "lesion by hand": lambda model, x: lesion(model, junction_by_hand(model, "4.bn2"), kind="resample"),
    "scale_branches": lambda model, x: scale_branches(model, junctions(model, x), 0.5),
    "cut_skips": lambda model, x: cut_skips(model, junctions(model, x)),
    "stochastic_depth": lambda model, x: stochastic_depth(
        model, junctions(model, x), training=True, per="example"
    ),
    "bypass": lambda model, x: bypass(model, "2"),
    "reorder": lambda model, x: reorder(model, ["5", "4"]),
    "repeat": lambda model, x: repeat(model, ["4", "5"]),
    "parallel": lambda model, x: parallel(model, ["4", "5"]),
    "skipped": lambda model, x: skipped(model, ["4", "5"]),
    "recalibrated": lambda model, x: recalibrated(model, [x, x + 1]),
    "delays": lambda model, x: delays(
        {edge: Gate(0) for edges in traced(model, x).branch_edges for edge in edges}
    ),
    "prepared": lambda model, x: Problem(model, (x, SPECIMEN.targets())).prepared(),
    "open_paths": lambda model, x: open_paths((model, (x, SPECIMEN.targets()))),
}


def body(model: nn.Module, x: torch.Tensor) -> None:
    """A user's passes; what draws random numbers or updates buffers is the instrument's doing."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad(model(x.clone().requires_grad_()).sum(), wanted, allow_unused=True)


@pytest.fixture
def model() -> nn.Module:
    return used(SPECIMEN.build())


@pytest.mark.parametrize("raised", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_the_model_is_as_found(name, raised, model):
    x = SPECIMEN.inputs()
    before = snapshot(model)
    with pytest.raises(raised, match="body") if raised else nullcontext():
        with INSTRUMENTS[name](model, x):
            body(model, x)
            if raised:
                raise raised("body")
    assert_as_found(model, before)


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", [name for name in INSTRUMENTS if name not in ("recalibrated", "open_paths")])
def test_the_model_is_as_found_when_its_forward_is_interrupted(name, raised, model):
    """The error comes from a module in the middle, so that hooks after it never run."""
    x = SPECIMEN.inputs()
    calls = []

    def interrupt(module, arguments):
        if calls:
            raise raised("in the middle")

    model[4].register_forward_pre_hook(interrupt)
    before = snapshot(model)
    with pytest.raises(raised, match="in the middle"):
        with INSTRUMENTS[name](model, x):
            calls.append(1)
            body(model, x)
    assert_as_found(model, before)


@pytest.mark.parametrize(
    "name", [n for n in INSTRUMENTS if n not in ("delays", "open_paths", "bypass", "parallel")]
)
def test_a_users_hooks_fire_as_often(name, model):
    x = SPECIMEN.inputs()
    fired = []
    for module in model.modules():
        module.register_forward_hook(lambda *heard: fired.append("forward"))
        module.register_forward_pre_hook(lambda *heard: fired.append("before"))
    model[-1].register_full_backward_hook(lambda *heard: fired.append("backward"))
    body(model, x)
    expected = list(fired)
    with INSTRUMENTS[name](model, x):
        fired.clear()
        body(model, x)
    assert fired == expected
    fired.clear()
    body(model, x)
    assert fired == expected


@pytest.mark.parametrize("name", ["left_as_found", "on_output", "on_gradient", "additions"])
def test_a_listener_changes_no_number(name):
    model, twin, x = SPECIMEN.build(), SPECIMEN.build(), SPECIMEN.inputs()
    x.requires_grad_()
    with INSTRUMENTS[name](model, x):
        heard = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    alone = torch.autograd.grad(twin(x).square().sum(), [x, *twin.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(heard, alone, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["auto", "frozen", "running", "train", "own"])
def test_batch_norm_updates_no_buffer_of_a_training_model(mode, training):
    model = SPECIMEN.build().train(training)
    before = snapshot(model)
    with batch_norm(model, mode):
        model(SPECIMEN.inputs())
    assert_as_found(model, before)


def test_left_as_found_puts_back_what_the_body_changes(model):
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        with left_as_found(model):
            model.train()
            model.requires_grad_(True)
            model(SPECIMEN.inputs())
            model[2].bn1.running_mean = torch.zeros(2, dtype=torch.float64)
            model[2].bn1.momentum = None
            for parameter in model.parameters():
                parameter.grad = None
            torch.randn(3), numpy.random.rand(3)
            raise KeyboardInterrupt
    assert_as_found(model, before)


def test_a_graph_of_the_users_survives_left_as_found():
    """Stored statistics are part of a graph that was made before; writing them anew would spoil it."""
    model, x = SPECIMEN.build(), SPECIMEN.inputs()
    loss = model(x).sum()
    with left_as_found(model):
        model(x)
    loss.backward()


def test_instruments_nest():
    model, x = SPECIMEN.build(), SPECIMEN.inputs()
    before = snapshot(model)
    with ExitStack() as stack:
        for name in ("prepared", "on_output", "on_gradient", "additions", *GATES):
            stack.enter_context(INSTRUMENTS[name](model, x))
        body(model, x)
    assert_as_found(model, before)
