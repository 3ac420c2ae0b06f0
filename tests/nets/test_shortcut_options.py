"""The options of the shortcut network and of networks without batch normalisation, against their equations."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope import nets

ROWS = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SHAPES = {"none": lambda x: x, "relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu}


def with_biases(network):
    """In float64, with biases away from zero, so that none can be forgotten."""
    network = network.double()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(network.named_parameters()):
            if name.endswith("bias"):
                parameter += torch.linspace(-0.5, 0.7, len(parameter)) + 0.01 * index
    return network


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("n", "inner", "pre", "mid", "post"),
    [
        (1, None, "tanh", "none", "relu"),
        (2, 3, "relu", "tanh", "none"),
        (2, None, "none", "relu", "relu"),
        (3, 5, "gelu", "relu", "none"),
    ],
)
def test_shortcut_network_is_its_equation(n, inner, pre, mid, post, bias):
    options = {} if inner is None else {"inner_width": inner}
    network = nets.build(
        "linear_shortcut", layers=2 * n, shortcut_length=n, width=4, bias=bias, pre_activation=pre,
        mid_activation=mid, post_activation=post, seed=0, **options,
    )  # fmt: skip
    parameters = iter(with_biases(network).parameters())
    x = ROWS
    for _ in range(2):
        z = SHAPES[pre](x)
        for layer in range(n):
            z = z if layer == 0 else SHAPES[mid](z)
            z = z @ next(parameters).T
            z = z + next(parameters) if bias else z
        x = SHAPES[post](x + z)
    assert next(parameters, None) is None
    torch.testing.assert_close(network(ROWS), x)


def test_without_shortcuts_the_activation_stands_between_the_layers():
    network = nets.build(
        "linear_shortcut", layers=3, shortcut_length=0, width=4, mid_activation="tanh", seed=0
    )
    x, weights = ROWS, [weight for weight in network.double().parameters()]
    assert len(network.blocks) == len(weights) == 3
    for index, weight in enumerate(weights):
        x = (x if index == 0 else x.tanh()) @ weight.T
    torch.testing.assert_close(network(ROWS), x)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolutions_keep_the_size_of_images(size):
    network = nets.build(
        "linear_shortcut", layers=4, shortcut_length=2, width=3, inner_width=2, kernel_size=size, seed=0
    ).double()
    x = IMAGES
    for inner, outer in zip(*[iter(network.parameters())] * 2, strict=True):
        x = x + F.conv2d(F.conv2d(x, inner, padding=size // 2), outer, padding=size // 2)
    torch.testing.assert_close(network(IMAGES), x)


@pytest.mark.parametrize(("n", "inner"), [(0, None), (1, None), (2, 3), (3, None)])
def test_the_plain_options_draw_what_they_always_drew(n, inner):
    """A seed's weights: those of bias-free layers, built one after the other, then drawn anew after He."""
    options = {} if inner is None else {"inner_width": inner}
    network = nets.build("linear_shortcut", layers=6, shortcut_length=n, width=4, seed=3, **options)
    widths = [4, *[inner or 4] * (n - 1), 4] if n else [4, 4]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = nn.Sequential(
            *[nn.Linear(a, b, bias=False) for _ in range(6 // (n or 1)) for a, b in pairwise(widths)]
        )
        nets.initialise(expected, "he")
    for found, weight in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, weight)
    branch = "branch.1." if n > 1 else "branch.0." if n else ""
    assert f"blocks.0.{branch}weight" in network.state_dict()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_zero_and_small_starts(n):
    network = nets.build("linear_shortcut", layers=6, shortcut_length=n, width=20, bias=True, seed=0)
    nets.initialise(network, "small", scale=1e-2, seed=1)
    weights = torch.cat([p.flatten() for name, p in network.named_parameters() if name.endswith("weight")])
    assert float(weights.detach().std()) == pytest.approx(1e-2, rel=0.05)
    nets.initialise(network, "zero")
    assert not any(parameter.any() for parameter in network.parameters())
    x = torch.randn(3, 20)
    assert torch.equal(network(x), x)


@pytest.mark.parametrize("shortcut", ["projection", "padding", "none"])
@pytest.mark.parametrize("activation", ["pre", "post"])
def test_resnet_without_batch_normalisation_is_its_equation(activation, shortcut):
    network = nets.build(
        "resnet", depth=14, width=4, activation=activation, shortcut=shortcut, normalise="none", seed=0
    )
    w = dict(with_biases(network).state_dict())

    def convolved(x, name, stride=1):
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    x = convolved(IMAGES, "stem" if activation == "pre" else "stem.conv")
    x = x if activation == "pre" else x.relu()
    for index in range(6):
        block, changes = f"blocks.{index}", index in (2, 4)
        stride = 2 if changes else 1
        z = x.relu() if activation == "pre" else x
        f = convolved(convolved(z, f"{block}.branch.conv1", stride).relu(), f"{block}.branch.conv2")
        if shortcut == "none":
            s = 0
        elif not changes:
            s = x
        elif shortcut == "padding":
            s = torch.zeros_like(f)
            s[:, : x.shape[1]] = x[:, :, ::2, ::2]
        else:
            s = convolved(z, f"{block}.shortcut" + ("" if activation == "pre" else ".conv"), 2)
        x = s + f if activation == "pre" else (s + f).relu()
    x = x.relu() if activation == "pre" else x
    expected = x.mean((2, 3)) @ w["head.linear.weight"].T + w["head.linear.bias"]
    torch.testing.assert_close(network(IMAGES), expected)


@pytest.mark.parametrize("activation", ["pre", "post"])
def test_without_batch_normalisation_there_is_none_and_3x3_convolutions_have_biases_of_zero(activation):
    network = nets.build("resnet", depth=14, width=4, activation=activation, normalise="none", seed=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.bias is not None) == (module.kernel_size == (3, 3))
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("family", ["resnet", "plain"])
def test_one_scheme_and_seed_draw_the_same_weights_with_and_without_batch_normalisation(family):
    options = {"depth": 14, "width": 4, "seed": 0}
    drawn = [
        nets.initialise(nets.build(family, normalise=normalise, **options), "he", seed=5)
        for normalise in ("batch", "none")
    ]
    with_norm, without = (dict(network.named_parameters()) for network in drawn)
    shared = [name for name in without if name.endswith("weight")]
    assert len(shared) > 12
    for name in shared:
        assert torch.equal(with_norm[name], without[name])


def test_plain_is_resnet_without_shortcuts_without_batch_normalisation_too():
    plain = nets.build("plain", depth=8, width=4, normalise="none", seed=0)
    cut = nets.build("resnet", depth=8, width=4, normalise="none", shortcut="none", seed=0)
    torch.testing.assert_close(plain(IMAGES.float()), cut(IMAGES.float()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("resnet", {"normalise": "layer"}, "normalise is one of batch, none; got 'layer'"),
        ("plain", {"normalise": "batc"}, "Did you mean 'batch'"),
        (
            "linear_shortcut",
            {"mid_activation": "rleu"},
            "mid_activation is one of none, relu, tanh, gelu.*'relu'",
        ),
        ("linear_shortcut", {"post_activation": "tanh"}, "post_activation is one of none, relu"),
        ("linear_shortcut", {"kernel_size": 2}, "kernel_size is odd"),
        ("linear_shortcut", {"kernel_size": 0}, "kernel_size is a whole number of at least 1"),
        ("linear_shortcut", {"shortcut_length": 0, "pre_activation": "relu"}, "Use mid_activation"),
        ("linear_shortcut", {"shortcut_length": 1, "mid_activation": "relu"}, "leaves nothing between"),
    ],
)
def test_mistakes_are_told_with_the_remedy(family, options, message):
    needed = {"layers": 4, "shortcut_length": 2} if family == "linear_shortcut" else {"depth": 8}
    with pytest.raises(ValueError, match=message):
        nets.build(family, **{**needed, **options})
