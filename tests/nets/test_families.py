"""Every family against its equation, written as a loop over its weights in float64."""

import pytest
import torch
from torch.nn import functional as F

from gradscope import nets

IMAGES = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def weights(network):
    return dict(network.state_dict())


def batch_norm(x, weights=None, name=""):
    """Over the batch and all pixels, with the biased variance, as in train mode."""
    dims = [0, *range(2, x.ndim)]
    mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    x = (x - mean) / (var + 1e-5).sqrt()
    if weights is None:
        return x
    shape = [1, -1] + [1] * (x.ndim - 2)
    return x * weights[f"{name}.weight"].reshape(shape) + weights[f"{name}.bias"].reshape(shape)


def shaken(network):
    """In float64, with scales, shifts and biases away from 1 and 0, so that none of them can be forgotten."""
    generator = torch.Generator().manual_seed(3)
    network = network.double()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn(weight.shape, dtype=torch.float64, generator=generator)
            assert weight.abs().sum() > 0, name
    return network


@pytest.mark.parametrize("normalise", ["none", "mean", "batch"])
@pytest.mark.parametrize("activation", ["relu", "prelu", "crelu", "linear"])
def test_plain_mlp_is_its_equation(normalise, activation):
    network = shaken(
        nets.build(
            "plain_mlp", depth=3, width=9, inputs=6, outputs=4, normalise=normalise, activation=activation,
            bias=True, seed=0,
        )
    )  # fmt: skip
    w = weights(network)
    x = ROWS
    for layer in range(3):
        x = x @ w[f"blocks.{layer}.linear.weight"].T + w[f"blocks.{layer}.linear.bias"]
        x = normalised(x, normalise)
        x = activated(x, activation, w.get(f"blocks.{layer}.activation.weight"))
    torch.testing.assert_close(network(ROWS), x @ w["head.weight"].T + w["head.bias"])


@pytest.mark.parametrize("normalise", ["none", "mean", "batch"])
@pytest.mark.parametrize("activation", ["relu", "prelu", "crelu", "linear"])
@pytest.mark.parametrize("branch_layers", [1, 2])
@pytest.mark.parametrize("width", [6, 9])
def test_residual_mlp_is_its_equation(normalise, activation, branch_layers, width):
    network = shaken(
        nets.build(
            "residual_mlp", depth=3, width=width, inputs=6, outputs=4, alpha=0.7, beta=0.3, bias=True, seed=0,
            branch_layers=branch_layers, normalise=normalise, activation=activation,
        )
    )  # fmt: skip
    w = weights(network)
    x = ROWS if width == 6 else ROWS @ w["stem.weight"].T + w["stem.bias"]
    for block in range(3):
        z = x
        if branch_layers == 2:
            name = f"blocks.{block}.branch.linear_in"
            z = z @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        slope = w.get(f"blocks.{block}.branch.activation.weight")
        z = activated(normalised(z, normalise), activation, slope)
        name = f"blocks.{block}.branch.linear"
        x = 0.7 * (x + 0.3 * (z @ w[f"{name}.weight"].T + w[f"{name}.bias"]))
    torch.testing.assert_close(network(ROWS), x @ w["head.weight"].T + w["head.bias"])


def normalised(x, normalise):
    if normalise == "mean":
        return x - x.mean(0)
    return batch_norm(x) if normalise == "batch" else x


def activated(x, activation, slope=None):
    if activation == "crelu":
        return torch.cat([x.clamp(min=0), (-x).clamp(min=0)], dim=1)
    if activation == "prelu":
        return torch.where(x > 0, x, slope * x)
    return x.clamp(min=0) if activation == "relu" else x


def convolved(x, weight, stride=1):
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


@pytest.mark.parametrize("shortcut", ["projection", "padding", "none"])
def test_pre_activation_resnet_is_its_equation(shortcut):
    network = shaken(nets.build("resnet", depth=14, width=4, shortcut=shortcut, beta=0.6, seed=0))
    w = weights(network)
    x = convolved(IMAGES, w["stem.weight"])
    for index in range(6):
        block, changes = f"blocks.{index}", index in (2, 4)
        shared = f"{block}.before" if changes and shortcut == "projection" else f"{block}.branch"
        stride = 2 if changes else 1
        z = batch_norm(x, w, f"{shared}.norm1").clamp(min=0)
        f = convolved(z, w[f"{block}.branch.conv1.weight"], stride)
        f = batch_norm(f, w, f"{block}.branch.norm2").clamp(min=0)
        f = 0.6 * convolved(f, w[f"{block}.branch.conv2.weight"])
        x = f + skip(x, z, f, w, f"{block}.shortcut.weight", stride, shortcut)
    x = batch_norm(x, w, "head.norm").clamp(min=0).mean((2, 3))
    expected = x @ w["head.linear.weight"].T + w["head.linear.bias"]
    torch.testing.assert_close(network(IMAGES), expected)


@pytest.mark.parametrize("shortcut", ["projection", "padding", "none"])
def test_post_activation_resnet_is_its_equation(shortcut):
    network = shaken(nets.build("resnet", depth=14, width=4, activation="post", shortcut=shortcut, seed=0))
    w = weights(network)
    x = batch_norm(convolved(IMAGES, w["stem.conv.weight"]), w, "stem.norm").clamp(min=0)
    for index in range(6):
        block = f"blocks.{index}"
        stride = 2 if index in (2, 4) else 1
        f = convolved(x, w[f"{block}.branch.conv1.weight"], stride)
        f = batch_norm(f, w, f"{block}.branch.norm1").clamp(min=0)
        f = batch_norm(convolved(f, w[f"{block}.branch.conv2.weight"]), w, f"{block}.branch.norm2")
        s = skip(x, x, f, w, f"{block}.shortcut.conv.weight", stride, shortcut)
        if stride == 2 and shortcut == "projection":
            s = batch_norm(s, w, f"{block}.shortcut.norm")
        x = (s + f).clamp(min=0)
    expected = x.mean((2, 3)) @ w["head.linear.weight"].T + w["head.linear.bias"]
    torch.testing.assert_close(network(IMAGES), expected)


def skip(raw, activated, branch, w, projection, stride, shortcut):
    """What stands beside the branch's output in the sum."""
    if shortcut == "none":
        return 0
    if raw.shape == branch.shape:
        return raw
    if shortcut == "projection":
        return convolved(activated, w[projection], stride)
    padded = torch.zeros_like(branch)
    padded[:, : raw.shape[1]] = raw[:, :, ::stride, ::stride]
    return padded


def test_vgg_is_its_equation():
    network = shaken(nets.build("vgg", depth=9, width=4, seed=0))
    w = weights(network)
    x = IMAGES
    for index in range(8):
        if index in (3, 6):
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        x = convolved(x, w[f"blocks.{index}.conv.weight"])
        x = batch_norm(x, w, f"blocks.{index}.norm").clamp(min=0)
    expected = x.mean((2, 3)) @ w["head.linear.weight"].T + w["head.linear.bias"]
    torch.testing.assert_close(network(IMAGES), expected)


@pytest.mark.parametrize("pooled", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "prelu", "crelu", "linear"])
def test_plain_conv_is_its_equation(activation, pooled):
    network = nets.build(
        "plain_conv", depth=5, width=4, classes=3, activation=activation, pooled=pooled, bias=True, seed=0
    )
    w = weights(shaken(network))
    x = IMAGES
    for unit in ("stem", "blocks.0", "blocks.1", "blocks.2"):
        x = convolved(x, w[f"{unit}.conv.weight"]) + w[f"{unit}.conv.bias"][:, None, None]
        x = activated(x, activation, w.get(f"{unit}.activation.weight"))
    x = x.reshape(5, -1, pooled, 8 // pooled, pooled, 8 // pooled).mean((3, 5)).flatten(1)
    torch.testing.assert_close(network(IMAGES), x @ w["head.linear.weight"].T + w["head.linear.bias"])


@pytest.mark.parametrize(
    ("layers", "n", "inner"), [(4, 0, None), (4, 1, None), (6, 2, 5), (6, 3, 4), (4, 4, None)]
)
def test_linear_shortcut_is_a_product_of_matrices(layers, n, inner):
    options = {} if inner is None else {"inner_width": inner}
    network = nets.build(
        "linear_shortcut", layers=layers, shortcut_length=n, width=6, seed=0, **options
    ).double()
    matrices = [weight for weight in network.parameters()]
    assert len(matrices) == layers
    product = torch.eye(6, dtype=torch.float64)
    for start in range(0, layers, n or 1):
        block = torch.eye(6, dtype=torch.float64)
        for matrix in matrices[start : start + (n or 1)]:
            block = matrix @ block
        product = (block if n == 0 else torch.eye(6, dtype=torch.float64) + block) @ product
    torch.testing.assert_close(network(ROWS), ROWS @ product.T)


def test_plain_is_resnet_without_shortcuts():
    plain = nets.build("plain", depth=14, width=4, seed=0)
    cut = nets.build("resnet", depth=14, width=4, shortcut="none", seed=0)
    torch.testing.assert_close(plain(IMAGES.float()), cut(IMAGES.float()), rtol=0, atol=0)


@pytest.mark.parametrize(("depth", "known"), [(20, 269_722), (32, 464_154), (56, 853_018), (110, 1_727_962)])
def test_parameter_count_of_the_original_resnet(depth, known):
    """Counted layer by layer; He et al. (2015) print them as 0.27, 0.46, 0.85 and 1.73 million."""
    n = (depth - 2) // 6
    count = 3 * 16 * 9 + 2 * 16
    for stage, width in enumerate((16, 32, 64)):
        count += 2 * n * (width * width * 9 + 2 * width)
        if stage:
            count -= width * (width - width // 2) * 9
    count += 64 * 10 + 10
    assert count == known
    network = nets.resnet(depth, activation="post", shortcut="padding")
    assert sum(weight.numel() for weight in network.parameters()) == count


@pytest.mark.parametrize("side", [4, 5, 8, 32])
@pytest.mark.parametrize("name", ["resnet", "plain", "plain_conv", "vgg"])
def test_convolutional_networks_take_any_side_from_four(name, side):
    network = nets.build(name, depth=8, channels=1, classes=3, width=2, seed=0)
    assert network(torch.randn(2, 1, side, side)).shape == (2, 3)


@pytest.mark.parametrize("name", ["plain_mlp", "residual_mlp"])
def test_fully_connected_networks_flatten_images(name):
    network = nets.build(name, depth=2, width=8, inputs=64, outputs=3, seed=0)
    images = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(network(images), network(images.reshape(5, 64)), rtol=0, atol=0)


def test_centre_treats_the_mean_as_a_constant():
    inputs = ROWS.clone().requires_grad_()
    centred = nets.Centre()(inputs)
    torch.testing.assert_close(centred.mean(0), torch.zeros(6, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(centred[2].sum(), inputs)
    expected = torch.zeros_like(ROWS)
    expected[2] = 1
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


def test_scales_of_one_add_no_node_to_the_graph():
    block = nets.Residual(torch.nn.Linear(4, 4), torch.nn.Identity())
    assert type(block(torch.randn(2, 4)).grad_fn).__name__ == "AddBackward0"


@pytest.mark.parametrize("activation", ["pre", "post"])
def test_several_branches_of_a_block_add_up(activation):
    """A multi-residual network equals the sum of its functions, block by block, on one skip."""
    network = shaken(
        nets.build("resnet", depth=8, width=4, activation=activation, branches=3, beta=0.5, seed=0)
    )
    x = network.stem(IMAGES)
    for block in network.blocks:
        z = x if block.before is None else block.before(x)
        functions = list(block.branch)
        assert len(functions) == 3
        x = block.shortcut(z) + 0.5 * sum(function(z) for function in functions)
        x = x if block.after is None else block.after(x)
    torch.testing.assert_close(network(IMAGES), network.head(x))


def test_zero_gamma_closes_each_of_several_branches():
    network = nets.initialise(
        nets.build("resnet", depth=8, activation="post", branches=2, seed=0), "zero_gamma"
    )
    for block in network.blocks:
        assert all(function.norm2.weight.abs().max() == 0 for function in block.branch)
