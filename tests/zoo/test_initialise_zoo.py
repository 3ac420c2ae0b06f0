"""Initialisations of torchvision's networks: VGG from a small configuration, and a ResNet by its names."""

import pytest
import torch
from torch import nn

from gradscope.nets import initialise, looks_linear_deviation

pytestmark = pytest.mark.filterwarnings("default")

IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def small_vgg(torchvision, *, norm, pool):
    """torchvision's VGG of few channels; with pool="average" for its max-pooling, which no linear map has."""
    features = torchvision.models.vgg.make_layers([4, "M", 6, 6, "M"], batch_norm=norm)
    with torch.device("meta"):
        model = torchvision.models.vgg.VGG(nn.Identity(), init_weights=False)
    model.features = features
    model.classifier = nn.Sequential(
        *(nn.Linear(6 * 49, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(True), nn.Dropout()),
        nn.Linear(8, 3),
    )
    for name, child in list(features.named_children()):
        if pool == "average" and isinstance(child, nn.MaxPool2d):
            setattr(features, name, nn.AvgPool2d(2))
    return model.double().eval()


@pytest.mark.parametrize("norm", [False, True])
def test_mirrored_units_make_vgg_linear_but_for_its_max_pooling(torchvision, norm):
    with pytest.raises(ValueError, match=r"is not linear: .*behind .*max_pool2d"):
        initialise(small_vgg(torchvision, norm=norm, pool="max"), "looks_linear_relu", seed=0, inputs=IMAGES)
    model = small_vgg(torchvision, norm=norm, pool="average")
    assert looks_linear_deviation(model, IMAGES) > 0.1
    initialise(model, "looks_linear_relu", seed=0, inputs=IMAGES)
    assert looks_linear_deviation(model, IMAGES) < 1e-11
    in_order = initialise(small_vgg(torchvision, norm=norm, pool="average"), "looks_linear_relu", seed=0)
    torch.testing.assert_close(in_order(IMAGES), model(IMAGES), rtol=0, atol=1e-12)


def test_a_resnet_by_the_names_of_its_norms_and_branches(torchvision):
    model = initialise(torchvision.models.resnet18(), "zero_gamma", seed=0, last_norms="layer*.bn2")
    blocks = [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]
    assert not any(block.bn2.weight.any() for block in blocks)
    names = [f"layer{layer}.{block}" for layer in range(1, 5) for block in range(2)]
    initialise(model, "fixup", seed=0, branches=[[f"{name}.conv1", f"{name}.conv2"] for name in names])
    assert not any(block.conv2.weight.any() for block in blocks) and not model.fc.weight.any()
    deviation = float(blocks[0].conv1.weight.detach().std())
    assert deviation == pytest.approx((2 / (64 * 9)) ** 0.5 * 8**-0.5, rel=0.02)
