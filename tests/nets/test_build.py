"""Networks by name: one seed, one network, and mistakes are told."""

import pytest
import torch

from gradscope import nets

SMALL = {
    "plain_mlp": {"depth": 2, "width": 8},
    "residual_mlp": {"depth": 2, "width": 8, "inputs": 5},
    "resnet": {"depth": 8, "width": 4},
    "plain": {"depth": 8, "width": 4},
    "plain_conv": {"depth": 5, "width": 4},
    "vgg": {"depth": 5, "width": 4},
    "linear_shortcut": {"layers": 4, "shortcut_length": 2},
}


def test_every_family_has_a_small_case():
    assert sorted(SMALL) == nets.names()


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_fixes_the_weights_and_leaves_the_global_generator(name):
    before = torch.get_rng_state()
    first = nets.build(name, seed=3, **SMALL[name])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again = nets.build(name, seed=3, **SMALL[name])
    other = nets.build(name, seed=4, **SMALL[name])
    for key, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    key = next(key for key, weight in first.named_parameters() if weight.ndim > 1)
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_without_a_seed_the_global_generator_decides():
    torch.manual_seed(5)
    first = nets.build("plain_mlp", depth=1)
    second = nets.build("plain_mlp", depth=1)
    torch.manual_seed(5)
    again = nets.build("plain_mlp", depth=1)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, second.head.weight)


@pytest.mark.parametrize("name", SMALL)
def test_children_are_stem_blocks_and_head(name):
    network = nets.build(name, seed=0, **SMALL[name])
    assert [child for child, _ in network.named_children()] == ["stem", "blocks", "head"]
    assert network.training


def test_residual_blocks_show_branch_and_shortcut():
    for block in nets.build("resnet", depth=14, width=4, seed=0).blocks:
        assert block.branch is not None
        assert block.shortcut is not None
    for block in nets.build("plain", depth=14, width=4, seed=0).blocks:
        assert block.shortcut is None


@pytest.mark.parametrize("name", SMALL)
def test_weights_start_after_he(name):
    network = nets.build(name, seed=0, **{**SMALL[name], "width": 64})
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and layer.weight.numel() > 2000:
            fan_in = layer.weight[0].numel()
            spread = layer.weight.square().mean() * fan_in / 2
            assert abs(spread - 1) < 5 * (2 / layer.weight.numel()) ** 0.5
        if isinstance(layer, torch.nn.Linear) and layer.bias is not None:
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnett", {}, "There are: linear_shortcut, .*Did you mean 'resnet'"),
        ("resnet", {"deph": 20}, "no option 'deph'.*depth.*Did you mean 'depth'"),
        ("plain_mlp", {}, "plain_mlp needs the option 'depth'"),
        ("resnet", {"depth": 21}, "6n \\+ 2.*got 21. Take 20 or 26"),
        ("plain", {"depth": 7}, "got 7. Take 8"),
        ("plain", {"depth": 12}, "got 12. Take 8 or 14"),
        ("resnet", {"shortcut": "pad"}, "shortcut is one of projection, padding, none; got 'pad'"),
        ("resnet", {"activation": "relu"}, "activation is one of pre, post"),
        ("plain_mlp", {"depth": 0}, "depth is a whole number of at least 1; got 0"),
        ("plain_mlp", {"depth": 2.5}, "depth is a whole number"),
        ("plain_mlp", {"depth": 2, "normalise": "layer"}, "normalise is one of none, mean, batch"),
        ("plain_mlp", {"depth": 2, "activation": "rleu"}, "activation is one of .*Did you mean 'relu'"),
        ("residual_mlp", {"depth": 2, "branch_layers": 3}, "branch_layers is one of 1, 2; got"),
        ("vgg", {"depth": 3}, "depth is a whole number of at least 4"),
        ("plain_conv", {"depth": 2}, "depth is a whole number of at least 3"),
        ("plain_conv", {"pooled": 0}, "pooled is a whole number of at least 1"),
        ("plain_conv", {"activation": "prelux"}, "activation is one of .*Did you mean 'prelu'"),
        ("linear_shortcut", {"layers": 5, "shortcut_length": 2}, "do not fill 5 layers. Take layers=4 or 6"),
        ("linear_shortcut", {"layers": 2, "shortcut_length": 3}, "Take layers=3"),
        ("linear_shortcut", {"layers": 2, "shortcut_length": 1, "inner_width": 3}, "Leave inner_width out"),
    ],
)
def test_mistakes_are_told_with_the_remedy(name, options, message):
    with pytest.raises(ValueError, match=message):
        nets.build(name, **options)
