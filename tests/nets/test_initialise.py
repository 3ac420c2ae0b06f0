"""Initialisations: their variances, and what each is for."""

import copy

import pytest
import torch
from torch import nn

from gradscope import nets
from gradscope.nets import initialise


def deep_crelu(depth=60, width=12, **options):
    network = nets.build(
        "plain_mlp", depth=depth, width=width, outputs=width, activation="crelu", seed=0, **options
    )
    return initialise(network.double(), "looks_linear", seed=1)


def test_a_network_that_looks_linear_is_linear_and_its_jacobian_orthogonal():
    network = deep_crelu()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 12, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        network(2 * x - 3 * y), 2 * network(x) - 3 * network(y), rtol=1e-10, atol=1e-10
    )
    jacobian = torch.func.jacrev(network)(x[0])
    torch.testing.assert_close(jacobian @ jacobian.T, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-10)


def test_changing_one_half_of_a_mirrored_weight_breaks_linearity():
    network = deep_crelu(depth=4)
    with torch.no_grad():
        network.blocks[2].linear.weight[:, :12] *= 1.5
    x = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(network(-x), -network(x))


def test_mirrored_weights_are_where_crelu_feeds_a_layer():
    network = nets.build(
        "residual_mlp", depth=2, width=6, inputs=4, branch_layers=2, activation="crelu", seed=0
    )
    initialise(network, "looks_linear", seed=0)
    for block in network.blocks:
        weight = block.branch.linear.weight
        assert torch.equal(weight[:, :6], -weight[:, 6:])
        weight = block.branch.linear_in.weight.double()
        torch.testing.assert_close(weight @ weight.T, torch.eye(6).double(), rtol=0, atol=1e-5)


def test_a_convolution_that_looks_linear_preserves_norms():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nets.CReLU(), nn.Conv2d(16, 8, 3, padding=1, bias=False)
    ).double()
    initialise(network, "looks_linear", seed=0)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x).square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))


def test_crelu_is_two_rectifiers_of_opposite_sign():
    x = torch.tensor([[1.0, -2.0]])
    assert nets.CReLU()(x).tolist() == [[1, 0, 0, 2]]
    assert nets.CReLU()(x[0]).tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(
    ("scheme", "options", "deviation"),
    [
        ("he", {}, (2 / (8 * 9)) ** 0.5),
        ("he", {"gain": 1.0}, (1 / (8 * 9)) ** 0.5),
        ("xavier", {}, (2 / (8 * 9 + 512 * 9)) ** 0.5),
        ("xavier", {"gain": 3.0}, 3 * (2 / (8 * 9 + 512 * 9)) ** 0.5),
        ("small", {"scale": 0.01}, 0.01),
        ("zero", {}, 0.0),
    ],
)
def test_standard_deviations(scheme, options, deviation):
    layer = initialise(nn.Conv2d(8, 512, 3).double(), scheme, seed=0, **options)
    measured = float(layer.weight.detach().square().mean().sqrt())
    assert measured == pytest.approx(deviation, rel=5 / (2 * layer.weight.numel()) ** 0.5)
    assert not layer.bias.any()


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_orthogonal_rows_or_columns(shape):
    weight = initialise(nn.Linear(*shape).double(), "orthogonal", seed=0, gain=2.0).weight
    gram = weight @ weight.T if weight.shape[0] < weight.shape[1] else weight.T @ weight
    torch.testing.assert_close(gram, 4 * torch.eye(5, dtype=torch.float64))


def test_zero_makes_shortcuts_the_whole_network():
    network = initialise(nets.build("linear_shortcut", layers=6, shortcut_length=2, width=4, seed=0), "zero")
    x = torch.randn(3, 4)
    assert torch.equal(network(x), x)


def test_zero_gamma_closes_every_branch_and_lets_it_learn():
    network = initialise(
        nets.build("resnet", depth=14, width=4, activation="post", seed=0), "zero_gamma", seed=1
    )
    x = torch.randn(4, 3, 8, 8)
    stream = network.stem(x)
    for block in network.blocks:
        torch.testing.assert_close(block(stream), block.shortcut(stream).relu())
        stream = block(stream)
    network(x).square().sum().backward()
    for block in network.blocks:
        assert block.branch.norm2.weight.grad.abs().sum() > 0


def test_a_seed_means_the_same_in_every_dtype_and_the_global_generator_stays():
    network = nets.build("plain_mlp", depth=2, width=8, seed=0)
    before = torch.get_rng_state()
    single = initialise(copy.deepcopy(network), "xavier", seed=7)
    double = initialise(copy.deepcopy(network).double(), "xavier", seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    for one, two in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(one, two.float())


def test_normalisation_is_as_fresh():
    network = nets.build("resnet", depth=8, width=4, seed=0)
    network(torch.randn(4, 3, 8, 8))
    with torch.no_grad():
        network.head.norm.weight.fill_(5)
    initialise(network, "he", seed=0)
    fresh = nets.build("resnet", depth=8, width=4, seed=0)
    for key, value in fresh.state_dict().items():
        if "norm" in key:
            assert torch.equal(network.state_dict()[key], value)


@pytest.mark.parametrize(
    ("network", "scheme", "options", "message"),
    [
        (nn.Linear(2, 2), "hee", {}, "scheme is one of he, .*Did you mean 'he'"),
        (nn.Linear(2, 2), "zero", {"gain": 2.0}, "gain is for he, xavier and orthogonal"),
        (nn.Linear(2, 2), "small", {}, "'small' needs a scale"),
        (nn.Linear(2, 2), "he", {"scale": 1.0}, "no other scheme has one"),
        (nn.ReLU(), "he", {}, "ReLU has no linear and no convolutional layer"),
        (nets.plain_mlp(1, width=4), "looks_linear", {}, "activation='crelu'"),
        (nets.vgg(4, width=2), "zero_gamma", {}, "zero_gamma is for residual networks"),
        (nets.plain(8, width=2), "zero_gamma", {}, "zero_gamma is for residual networks"),
        (nets.resnet(8, width=2), "zero_gamma", {}, "Build the network with activation='post'"),
    ],
)
def test_mistakes_are_told_before_anything_is_drawn(network, scheme, options, message):
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=message):
        initialise(network, scheme, **options)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
