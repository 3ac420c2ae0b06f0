"""Looks-linear starts: the map is the product of its orthogonal matrices, whatever the rectifier and the layers."""

import copy

import pytest
import torch
from as_found import all_tensors, assert_as_found, snapshot
from torch import nn
from torch.nn import functional as F

from gradscope import nets
from gradscope.nets import initialise, looks_linear_deviation


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


IMAGES = normal(5, 2, 6, 6)


class OppositeCReLU(nn.Module):
    """(relu(x), -relu(-x)): the sign trap."""

    def forward(self, x):
        return torch.cat((F.relu(x), -F.relu(-x)), dim=1)


class RectifiedTogether(nn.Module):
    def forward(self, x):
        return torch.cat((x, -x), dim=1).relu_()


class Interleaved(nn.Module):
    def forward(self, x):
        return torch.stack((x.relu(), (-x).relu()), dim=2).flatten(1, 2)


class OutOfOrder(nn.Module):
    """Registered back to front, one CReLU for all, functional pooling, and pixels flattened before channels."""

    def __init__(self, crelu):
        super().__init__()
        self.readout = nn.Linear(2 * 2 * 4, 3)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.rectifier = crelu()

    def forward(self, x):
        x = F.avg_pool2d(self.rectifier(self.first(x)), 3)
        x = F.adaptive_avg_pool2d(self.rectifier(self.second(x)), (2, 1))
        return self.readout(x.permute(0, 2, 3, 1).flatten(1))


def deep_crelu(bias=False, depth=60):
    net = nets.build(
        "plain_mlp", depth=depth, width=10, outputs=10, activation="crelu", bias=bias, seed=0
    ).double()
    return initialise(net, "looks_linear", seed=1, inputs=normal(4, 10))


def correlation(gradients):
    """Definition 1, pair by pair."""
    n = len(gradients)
    off = sum(gradients[i] @ gradients[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return float(off / (sum(g @ g for g in gradients) / n))


def input_gradients(model, inputs):
    inputs = inputs.clone().requires_grad_()
    return torch.autograd.grad(model(inputs).sum(), inputs)[0].flatten(1)


def test_sixty_layers_are_the_product_of_their_matrices():
    model = deep_crelu()
    x = normal(6, 10, seed=3)
    product = torch.eye(10, dtype=torch.float64)
    for layer in [*(block.linear for block in model.blocks), model.head]:
        weight = layer.weight.detach()
        product = (weight if weight.shape[1] == 10 else weight[:, :10]) @ product
    torch.testing.assert_close(model(x), x @ product.T, rtol=0, atol=1e-11)
    singular = torch.linalg.svdvals(torch.func.jacrev(model)(x[0]).detach())
    assert float(singular.max() - singular.min()) <= 1e-12
    assert float(singular.max()) == pytest.approx(1, abs=1e-12)
    assert correlation(input_gradients(model, x)) == pytest.approx(1, abs=1e-11)
    assert looks_linear_deviation(model, x) <= 1e-11


def test_biases_make_it_affine_and_leave_the_gradient():
    model = deep_crelu(bias=True, depth=8)
    x = normal(6, 10, seed=3)
    before = input_gradients(model, x)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(normal(*parameter.shape, seed=9))
    assert not torch.allclose(model(2 * x), 2 * model(x))
    assert looks_linear_deviation(model, x) <= 1e-11
    torch.testing.assert_close(input_gradients(model, x), before, rtol=0, atol=1e-12)


def test_one_half_alone_changed_shatters():
    model = deep_crelu(depth=8)
    x = normal(20, 10, seed=3)
    with torch.no_grad():
        model.blocks[3].linear.weight[:, :10] += 0.5 * normal(10, 10, seed=4)
    assert correlation(input_gradients(model, x)) < 0.95
    assert looks_linear_deviation(model, x) > 0.01


def test_exact_zeros_hand_back_no_gradient_though_the_map_is_linear():
    model = deep_crelu(depth=3)
    blank = torch.zeros(1, 10, dtype=torch.float64)
    assert not input_gradients(model, blank).any()
    assert float(input_gradients(model, normal(1, 10)).norm()) > 0.1
    images = IMAGES.clone()
    images[:, :, :, :2] = 0
    model = nets.build("plain_conv", depth=5, width=4, channels=2, activation="crelu", seed=0).double()
    initialise(model, "looks_linear", seed=0, inputs=images)
    gradient = input_gradients(model, images).reshape(images.shape)
    elsewhere = input_gradients(model, IMAGES).reshape(images.shape)
    assert not gradient[:, :, :, :2].any()
    torch.testing.assert_close(gradient[:, :, :, 2:], elsewhere[:, :, :, 2:], rtol=0, atol=1e-12)
    assert bool(elsewhere[:, :, :, :2].all())


def test_twenty_convolutions_preserve_the_norm():
    model = nets.build("plain_conv", depth=21, width=6, channels=6, activation="crelu", seed=0).double()
    initialise(model, "looks_linear", seed=2)
    x = normal(3, 6, 5, 5)
    features = model.blocks(model.stem(x))
    stream = features[:, :6] - features[:, 6:]
    torch.testing.assert_close(stream.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("crelu", [nets.CReLU, OppositeCReLU, RectifiedTogether, Interleaved])
def test_what_feeds_a_layer_is_seen_on_a_forward_pass(crelu):
    model = OutOfOrder(crelu).double()
    initialise(model, "looks_linear", seed=0, inputs=IMAGES, gain=1.5)
    assert looks_linear_deviation(model, IMAGES) <= 1e-12
    assert float(model(IMAGES).detach().norm()) > 0.1
    by_hand = F.conv2d(IMAGES, model.first.weight, padding=1)
    halves = crelu()(by_hand)
    through = F.conv2d(F.avg_pool2d(halves, 3), model.second.weight, padding=1)
    gram = torch.einsum("nchw,ndhw->cd", F.avg_pool2d(by_hand, 3), F.avg_pool2d(by_hand, 3))
    assert float(through.detach().square().sum()) == pytest.approx(
        1.5**2 * float(gram.detach().trace()), rel=1e-12
    )


class AlongLast(nn.Module):
    def forward(self, x):
        return torch.cat((x.relu(), (-x).relu()), dim=-1)


class Reused(nn.Module):
    """One hidden layer that runs twice, rectified in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.readout = nn.Linear(5, 4), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x):
        for layer in (self.stem, self.shared, self.shared):
            x = layer(x)
            x = F.relu(torch.cat([x, -x], 1), inplace=True)
        return self.readout(x)


KINDS = {
    "tokens": (lambda: nn.Sequential(nn.Linear(5, 4), AlongLast(), nn.Linear(8, 3)), (4, 7, 5)),
    "mirrored tokens": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), (4, 7, 5)),
    "a layer that runs twice": (Reused, (4, 5)),
    "one dimension, strides": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), nets.CReLU(), nn.AvgPool1d(2), nn.Conv1d(8, 4, 5, stride=2), nets.CReLU(),
            nn.Flatten(), nn.Linear(16, 3),
        ),
        (4, 2, 18),
    ),
    "three dimensions, circular": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 4, 3, padding=1, padding_mode="circular"), nets.CReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(),
            nn.Linear(64, 3),
        ),
        (2, 2, 4, 4, 4),
    ),
    "residual branches": (
        lambda: nets.residual_mlp(3, width=6, inputs=5, branch_layers=2, activation="crelu"), (4, 5)
    ),
    "residual branches, mirrored": (lambda: nets.residual_mlp(3, width=6, inputs=5, branch_layers=2), (4, 5)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind_look_linear(kind):
    make, shape = KINDS[kind]
    model, x = make().double(), normal(*shape)
    assert looks_linear_deviation(model, x) > 0.01
    scheme = "looks_linear_relu" if "mirrored" in kind else "looks_linear"
    initialise(model, scheme, seed=0, inputs=x)
    assert looks_linear_deviation(model, normal(*shape, seed=7)) <= 1e-12
    assert float(model(x).detach().norm()) > 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_half_that_is_silent_on_all_examples_is_still_a_half(sign):
    model = nn.Sequential(
        nn.Linear(3, 2), nets.CReLU(), nn.Linear(4, 2), nets.CReLU(), nn.Linear(4, 1)
    ).double()
    with torch.no_grad():
        model[0].bias.fill_(sign * 100.0)
    initialise(model, "looks_linear", seed=0, inputs=normal(4, 3))
    assert looks_linear_deviation(model, normal(9, 3)) <= 1e-12
    assert torch.equal(model[2].weight[:, 2:], -model[2].weight[:, :2])


@pytest.mark.parametrize(("crelu", "mirror"), [(nets.CReLU, -1), (OppositeCReLU, 1)])
def test_the_sign_convention_is_told_without_inputs_too(crelu, mirror):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), crelu(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 3)
    ).double()
    initialise(model, "looks_linear", seed=0)
    weight = model[4].weight
    assert torch.equal(weight[:, 36:], mirror * weight[:, :36])
    assert looks_linear_deviation(model, IMAGES) <= 1e-12


def test_a_module_called_crelu_that_is_none_asks_for_inputs():
    class CReLUDoubled(OppositeCReLU):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"does not map .* Pass inputs="):
        initialise(nn.Sequential(nn.Linear(2, 2), CReLUDoubled(), nn.Linear(4, 2)), "looks_linear")


def test_slope_one_makes_a_prelu_network_linear():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.PReLU(4), nn.Conv2d(4, 4, 3, stride=2)).double()
    initialise(model, "looks_linear", seed=0, inputs=IMAGES)
    assert torch.equal(model[1].weight, torch.ones(4, dtype=torch.float64))
    assert looks_linear_deviation(model, IMAGES) <= 1e-12
    build = nets.build("plain_conv", depth=5, width=4, channels=2, activation="prelu", seed=0).double()
    assert looks_linear_deviation(initialise(build, "looks_linear", seed=0), IMAGES) <= 1e-12


def test_a_prelu_of_the_opposite_sign_is_refused():
    class FlippedPReLU(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor([0.25]))

        def forward(self, x):
            return x.relu() + self.slope * (-x).relu()

    model = nn.Sequential(nn.Linear(3, 3), FlippedPReLU(), nn.Linear(3, 1))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"'1' \(FlippedPReLU\) maps -1 to 1 at slope 1.*Put nn.PReLU"):
        initialise(model, "looks_linear")
    assert_as_found(model, before)


def vgg(pool=nn.AvgPool2d, inplace=True):
    """The structure of torchvision's VGG: `features`, adaptive pooling, `classifier` with dropout."""

    class VGG(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace), pool(2),
                nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace),
            )  # fmt: skip
            self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
            self.classifier = nn.Sequential(
                nn.Linear(24, 10), nn.ReLU(inplace), nn.Dropout(), nn.Linear(10, 8), nn.ReLU(inplace), nn.Linear(8, 3)
            )  # fmt: skip

        def forward(self, x):
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    return VGG().double()


@pytest.mark.parametrize("inputs", [None, IMAGES])
def test_plain_relu_is_linear_with_mirrored_units(inputs):
    model = initialise(vgg().eval(), "looks_linear_relu", seed=0, inputs=inputs)
    assert looks_linear_deviation(model, IMAGES) <= 1e-12
    first, second = (model.features[i].weight[:, :, 1, 1].detach() for i in (0, 3))
    assert torch.equal(first[2:], -first[:2])
    small = second[:3, :2]
    assert torch.equal(second, torch.cat((torch.cat((small, -small), 1), torch.cat((-small, small), 1))))
    torch.testing.assert_close(small.T @ small, torch.eye(2, dtype=torch.float64))
    last = model.classifier[5].weight
    assert torch.equal(last[:, 4:], -last[:, :4])
    hidden = F.conv2d(IMAGES, model.features[0].weight, padding=1)[:, :2]
    torch.testing.assert_close(hidden.square().sum(), IMAGES.square().sum())


def test_doubling_and_crelu_are_the_same_linear_map():
    """The mirrored units of a plain ReLU network are a CReLU network of half the width, weight by weight."""
    plain = nets.build("plain_mlp", depth=3, width=8, inputs=4, outputs=4, seed=0).double()
    crelu = nets.build("plain_mlp", depth=3, width=4, outputs=4, activation="crelu", seed=0).double()
    initialise(plain, "looks_linear_relu", seed=5, inputs=normal(3, 4))
    initialise(crelu, "looks_linear", seed=5, inputs=normal(3, 4))
    x = normal(6, 4, seed=1)
    torch.testing.assert_close(plain(x), crelu(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: vgg(nn.MaxPool2d).eval(), r"first seen at the output of 'features.3', behind max_pool2d\. "),
        (lambda: vgg().train(), r"the output of 'classifier.3', behind dropout"),
        (
            lambda: nn.Sequential(
                nn.Flatten(), nn.Linear(72, 4), nets.CReLU(), nn.LayerNorm(8), nn.Linear(8, 2)
            ),
            "the output of '4', behind layer_norm",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(2, 2, 1), nets.CReLU(), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)
            ),
            "the output of '4', behind relu",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nets.CReLU(), nn.Conv2d(4, 2, 1), nn.Softmax(1)),
            "first seen at the output, behind softmax",
        ),
    ],
)
def test_what_breaks_linearity_is_named_and_the_weights_stay(model, message):
    model = model().double()
    scheme = "looks_linear_relu" if hasattr(model, "classifier") else "looks_linear"
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"is not linear: .*{message}"):
        initialise(model, scheme, seed=0, inputs=IMAGES)
    assert_as_found(model, before)


@pytest.mark.parametrize("training", [True, False])
def test_frozen_batch_normalisation_does_not_break_it(training):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nets.CReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 4, 3)
    ).double()
    model.train(training)
    initialise(model, "looks_linear", seed=0, inputs=IMAGES)
    before = snapshot(model)
    assert looks_linear_deviation(model, IMAGES) <= 1e-12
    assert_as_found(model, before)
    assert int(model[1].num_batches_tracked) == 0


def test_what_is_no_weight_stays():
    model = nets.build("plain_conv", depth=4, width=4, channels=2, activation="crelu", seed=0)
    model.stem.conv.weight.requires_grad_(False)
    model.blocks[0].conv.register_forward_hook(lambda *arguments: None)
    before, tensors = snapshot(model), all_tensors(model)
    generator = torch.get_rng_state()
    initialise(model, "looks_linear", seed=0, inputs=IMAGES)
    after = snapshot(model)
    for what in ("requires_grad", "training", "hooks", "global hooks", "tensors", "gradients", "grad mode"):
        assert after[what] == before[what], what
    assert torch.equal(torch.get_rng_state(), generator)
    assert {name: t.dtype for name, t in all_tensors(model).items()} == {
        name: t.dtype for name, t in tensors.items()
    }
    half = initialise(copy.deepcopy(model).bfloat16(), "looks_linear", seed=0, inputs=IMAGES)
    assert half.stem.conv.weight.dtype == torch.bfloat16


def test_the_deviation_of_a_rectifier_network_is_of_order_one_and_of_a_constant_map_zero():
    model = nets.build("plain_mlp", depth=4, width=10, outputs=3, seed=0).double()
    assert 0.1 < looks_linear_deviation(model, normal(6, 10)) < 10
    assert 0.1 < looks_linear_deviation(model, normal(1, 10)) < 10
    assert looks_linear_deviation(initialise(model, "zero"), normal(6, 10)) == 0


@pytest.mark.parametrize(
    ("model", "scheme", "options", "message"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), "looks_linear_relu", {}, "'0' .* 3 outputs"),
        (
            nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)),
            "looks_linear_relu",
            {"inputs": torch.randn(2, 2)},
            "'0' feeds a ReLU and has 3 outputs.*even widths",
        ),
        (nn.Sequential(nn.Linear(2, 4), nn.Tanh()), "looks_linear_relu", {}, "no nn.ReLU registered"),
        (nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(6, 1)), "looks_linear_relu", {}, "Pass inputs="),
        (nn.Sequential(nn.Conv2d(1, 2, 2), nets.CReLU(), nn.Conv2d(4, 1, 3)), "looks_linear", {}, "no centre"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nets.CReLU(), nn.Conv2d(4, 2, 3, groups=2)),
            "looks_linear",
            {},
            "'2' is a convolution in 2 groups",
        ),
        (nn.Linear(2, 2), "he", {"inputs": torch.randn(2, 2)}, "inputs is for looks_linear and"),
        (nets.CReLU(), "looks_linear", {}, "no linear and no convolutional layer"),
        (nets.plain_mlp(1, width=4, activation="crelu"), "looks_linear", {"inputs": torch.ones(3).long()}, "floating"),
        (
            nn.Sequential(nn.Linear(4, 4), nets.CReLU(), nn.Linear(8, 1)),
            "looks_linear",
            {"inputs": torch.full((3, 4), float("nan"))},
            "hold infinite or NaN",
        ),
        (
            nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nets.CReLU(), nn.Linear(2, 1)),
            "looks_linear",
            {"inputs": torch.randn(3, 4)},
            "side by side along the channels",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_drawn(model, scheme, options, message):
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        initialise(model, scheme, **options)
    assert_as_found(model, before)
