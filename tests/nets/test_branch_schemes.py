"""Initialisations of residual branches and of convolutional kernels, in our networks and in strangers'."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from torch import nn

from gradscope import nets
from gradscope.nets import initialise


class Block(nn.Module):
    """A residual block as torchvision registers it: the projection behind the branch."""

    def __init__(self, before, after):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x):
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return ((x if self.downsample is None else self.downsample(x)) + branch).relu()


def stranger():
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 4, 3, padding=1))
    model.add_module("layer1", nn.Sequential(Block(4, 4), Block(4, 6)))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("fc", nn.Linear(6, 5))
    return model.double()


BRANCHES = [["layer1.0.conv1", "layer1.0.conv2"], ["layer1.1.conv1", "layer1.1.conv2"]]


def test_fixup_of_a_stranger_by_the_names_of_its_layers():
    model, he = stranger(), initialise(stranger(), "he", seed=3)
    initialise(model, "fixup", seed=3, branches=BRANCHES)
    torch.testing.assert_close(model.layer1[0].conv1.weight, he.layer1[0].conv1.weight * 2 ** (-1 / 2))
    for same in ("conv", "layer1.1.downsample"):
        assert torch.equal(model.get_submodule(same).weight, he.get_submodule(same).weight)
    for zero in ("layer1.0.conv2", "layer1.1.conv2", "fc"):
        assert not model.get_submodule(zero).weight.any()


@pytest.mark.parametrize("layers_a_branch", [1, 2, 3])
def test_fixup_scales_by_the_number_of_branches_and_of_their_layers(layers_a_branch):
    """Every branch starts silent; the exponent is -1/(2m - 2), Zhang et al. (2019), section 3."""
    build = {"layers": 4 * layers_a_branch, "shortcut_length": layers_a_branch, "width": 5}
    model = initialise(nets.build("linear_shortcut", seed=0, **build), "fixup", seed=1)
    he = initialise(nets.build("linear_shortcut", seed=0, **build), "he", seed=1)
    for block, other in zip(model.blocks, he.blocks, strict=True):
        weights = [layer.weight for layer in block.branch]
        assert not weights[-1].any()
        for weight, drawn in zip(weights[:-1], list(other.branch)[:-1], strict=True):
            torch.testing.assert_close(weight, drawn.weight * 4 ** (-1 / (2 * layers_a_branch - 2)))
    x = torch.randn(3, 5)
    assert torch.equal(model(x), x)


def test_fixup_of_our_resnet_zeroes_the_head_and_counts_several_functions_of_a_block():
    model = initialise(nets.build("resnet", depth=8, width=2, branches=2, seed=0), "fixup", seed=1)
    he = initialise(nets.build("resnet", depth=8, width=2, branches=2, seed=0), "he", seed=1)
    assert not model.head.linear.weight.any()
    assert model.blocks[0].shortcut is not None and torch.equal(model.stem.weight, he.stem.weight)
    for block, other in zip(model.blocks, he.blocks, strict=True):
        for function, drawn in zip(block.branch, other.branch, strict=True):
            torch.testing.assert_close(function.conv1.weight, drawn.conv1.weight * 6 ** (-1 / 2))
            assert not function.conv2.weight.any()


def test_a_stem_is_no_head():
    model = nn.Sequential(nn.Linear(4, 4), nets.Residual(nn.Linear(4, 4), nn.Identity()))
    initialise(model, "fixup", branches=["1.branch"])
    assert model[0].weight.any() and not model[1].branch.weight.any()


@pytest.mark.parametrize("names", ["layer1.*.bn2", ["layer1.0.bn2", "layer1.1.bn2"]])
def test_zero_gamma_of_a_stranger_by_the_names_of_its_norms(names):
    model = initialise(stranger(), "zero_gamma", seed=0, last_norms=names)
    for block in model.layer1:
        assert not block.bn2.weight.any()
        assert torch.equal(block.bn1.weight, torch.ones_like(block.bn1.weight))
    x = model.conv(torch.randn(2, 3, 5, 5, dtype=torch.float64))
    assert torch.equal(model.layer1[0](x), x.relu())


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(4, 6, 3), nn.Conv2d(6, 4, (3, 5)), nn.Conv3d(4, 4, 3, padding=1)]
)
def test_delta_orthogonal_is_orthogonal_at_the_centre_and_zero_around_it(layer):
    weight = initialise(layer.double(), "delta_orthogonal", seed=0, gain=0.5).weight.detach()
    middle = tuple(size // 2 for size in weight.shape[2:])
    centre = weight[(slice(None), slice(None), *middle)].clone()
    small = centre if len(centre) < centre.shape[1] else centre.T
    torch.testing.assert_close(small @ small.T, 0.25 * torch.eye(len(small), dtype=torch.float64))
    weight[(slice(None), slice(None), *middle)] = 0
    assert not weight.any()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_delta_orthogonal_preserves_norms_in_groups_too(groups):
    layer = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=groups, bias=False).double()
    initialise(layer, "delta_orthogonal", seed=0)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x).square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))


@pytest.mark.parametrize(
    ("model", "scheme", "options", "message"),
    [
        (stranger(), "fixup", {}, r"no blocks\[\*\].branch .*Name the layers"),
        (stranger(), "fixup", {"branches": []}, "an entry for each residual branch"),
        (stranger(), "fixup", {"branches": "layer1.0"}, "an entry for each residual branch"),
        (stranger(), "fixup", {"branches": [["layer1.0.conv3"]]}, "no module .*Did you mean 'layer1.0.conv"),
        (stranger(), "fixup", {"branches": ["layer1.0.bn1"]}, "holds no linear and no convolutional layer"),
        (stranger(), "zero_gamma", {"last_norms": "layer2.*"}, "has no module 'layer2"),
        (stranger(), "zero_gamma", {"last_norms": "layer1.*.conv2"}, "needs a normalisation with a scale"),
        (stranger(), "zero_gamma", {"last_norms": []}, "last_norms is empty"),
        (stranger(), "zero_gamma", {}, "last_norms='layer"),
        (stranger(), "he", {"branches": BRANCHES}, "branches is for fixup, not for 'he'"),
        (stranger(), "fixup", {"last_norms": "layer1.*.bn2"}, "last_norms is for zero_gamma"),
        (nn.Conv2d(2, 2, 2), "delta_orthogonal", {}, "2x2, and an even one has no centre"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "he", {}, "computed from other parameters"),
        (nn.LazyLinear(2), "he", {}, "does not know its size"),
    ],
)
def test_mistakes_are_told_before_anything_is_drawn(model, scheme, options, message):
    lazy = isinstance(model, nn.LazyLinear)
    before = None if lazy else snapshot(model)
    with pytest.raises(ValueError, match=message):
        initialise(model, scheme, **options)
    if before is not None:
        assert_as_found(model, before)
