"""Residual junctions of torchvision's networks as they come: how many, which gradient, which lesion."""

import copy
from collections import Counter

import pytest
import torch
from as_found import assert_as_found, snapshot
from torch import nn

from gradscope.gradients.paths import path_gradients
from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import junctions, trace
from gradscope.instruments.quiet import left_as_found
from gradscope.problem import Problem
from gradscope.studies.gradient_correlation import gradient_correlation

pytestmark = pytest.mark.filterwarnings("default")

# Residual additions by construction: blocks with and without a projecting shortcut.
COUNTS = {
    "resnet18": {"identity": 5, "projection": 3},
    "resnet50": {"identity": 12, "projection": 4},
    "regnet_y_400mf": {"identity": 12, "projection": 4},
    "mobilenet_v2": {"identity": 10},
    "mobilenet_v3_small": {"identity": 6},
    "efficientnet_b0": {"identity": 9},
    "convnext_tiny": {"identity": 18},
    "swin_t": {"identity": 24},
    "vit_b_16": {"identity": 24},
    "densenet121": {"concat": 58},
    "shufflenet_v2_x0_5": {"concat": 13},
    "googlenet": {},
    "squeezenet1_1": {},
}
LARGE = {
    "wide_resnet50_2": {"identity": 12, "projection": 4},
    "resnext50_32x4d": {"identity": 12, "projection": 4},
    "swin_v2_t": {"identity": 24},
    "efficientnet_v2_s": {"identity": 35},
    "vgg11_bn": {},
    "alexnet": {},
    "inception_v3": {},
}
HEAVY = ("swin_t", "vit_b_16")
# Module of the block, as its junction is named, to the last layer of its branch.
LAST = {
    "resnet18": lambda block, ordinal: block.bn2,
    "resnet50": lambda block, ordinal: block.bn3,
    "mobilenet_v2": lambda block, ordinal: block.conv[-1],
    "efficientnet_b0": lambda block, ordinal: block.block[-1][1],
    "swin_t": lambda block, ordinal: (block.attn.proj, block.mlp[3])[ordinal],
    "vit_b_16": lambda block, ordinal: (block.self_attention.out_proj, block.mlp[3])[ordinal],
}


def network(torchvision, name, classes=4):
    torch.manual_seed(0)
    options = {"image_size": 32} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    model = getattr(torchvision.models, name)(weights=None, num_classes=classes, **options)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)  # a zero head or bias would make every gradient zero
    return model.eval()


def images(name, count=2):
    size = {"inception_v3": 96, "alexnet": 64, "googlenet": 64}.get(name, 32)
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*COUNTS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_counts(torchvision, name):
    model, x = network(torchvision, name), images(name)
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        for training in (False, True):
            with left_as_found(model):
                model.train(training)
                found = trace(model, model, x).junctions
            assert Counter(j.kind for j in found) == (COUNTS | LARGE)[name]
            assert all(j.level == 0 and j.number is not None and j.skips for j in found)
            assert all(len(j.branches) == len(j.skips) == 1 for j in found if j.kind != "concat")


def test_a_layer_of_a_densenet_is_concatenated_by_all_later_ones(torchvision):
    model, x = network(torchvision, "densenet121"), images("densenet121")
    found = junctions(model, x)
    assert [len(j.branches) for j in found] == [
        left for layers in (6, 12, 24, 16) for left in range(layers, 0, -1)
    ]
    layer, closed = found[1], "features.denseblock1.denselayer2.conv2"
    assert layer.name == "features.denseblock1.denselayer3:0"
    zeroed = copy.deepcopy(model)
    zeroed.get_submodule(closed).weight.data.zero_()
    with torch.no_grad(), lesion(model, layer):
        assert torch.equal(model(x), zeroed(x))


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize(
    "name",
    ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet50", "convnext_tiny", *HEAVY))],
)
def test_path_gradients_sum_to_the_gradient(torchvision, name, batch_norm):
    if batch_norm == "train" and not name.startswith("resnet"):
        pytest.skip("no batch normalisation")
    model = network(torchvision, name).double()
    x, y = images(name).double(), torch.tensor([1, 2])
    problem = Problem(model, (x, y), batch_norm=batch_norm)
    before = snapshot(model)
    graded = path_gradients(problem)
    assert_as_found(model, before)
    whole = gradient(problem, x, y)
    torch.testing.assert_close(graded.sum(dim=0), whole, rtol=0, atol=1e-13 * float(whole.abs().max()))
    assert all(part.abs().max() > 0 for part in graded[1:])


def test_the_two_shortest_lengths_by_detaching_branches(torchvision):
    model = network(torchvision, "resnet18").double()
    x, y = images("resnet18").double(), torch.tensor([1, 2])
    problem = Problem(model, (x, y), batch_norm="frozen")
    blocks = [block for name in ("layer1", "layer2", "layer3", "layer4") for block in getattr(model, name)]

    def through(opened):
        handles = [
            block.bn2.register_forward_hook(lambda module, arguments, output: output.detach().clone())
            for block in blocks
            if block is not opened
        ]
        found = gradient(problem, x, y)
        for handle in handles:
            handle.remove()
        return found

    none = through(None)
    one = sum(through(block) - none for block in blocks)
    graded = path_gradients(problem, 1)
    torch.testing.assert_close(graded, torch.stack([none, one]), rtol=0, atol=1e-12 * float(one.abs().max()))


def gradient(problem, x, y):
    x = x.clone().requires_grad_()
    with problem.prepared():
        return torch.autograd.grad(problem.value(x, y), x)[0]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in LAST])
def test_a_lesion_is_the_branch_with_its_last_layer_zero(torchvision, name, monkeypatch):
    model, x = network(torchvision, name), images(name, 4)
    # A gate needs Python's additions, so the fused attention of a plain forward is switched off for the reference.
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    model.train()
    with torch.no_grad():
        model(images(name, 8))
        intact = model.eval()(x)
        before = snapshot(model)
        for junction in junctions(model, x):
            module, _, ordinal = junction.name.rpartition(":")
            zeroed = copy.deepcopy(model)
            layer = LAST[name](zeroed.get_submodule(module), int(ordinal))
            layer.weight.zero_()
            layer.bias.zero_()
            with lesion(model, junction):
                lesioned = model(x)
            assert torch.equal(lesioned, zeroed(x)) and not torch.equal(lesioned, intact)
        assert torch.equal(model(x), intact)
        assert_as_found(model, before)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "swin_t"])
def test_gradient_correlation_runs(torchvision, name):
    frame = gradient_correlation((network(torchvision, name), images(name, 4)))
    assert (frame["status"] == "ok").all()
    assert frame["value"].between(-1 / 3 - 1e-6, 1 + 1e-6).all()
