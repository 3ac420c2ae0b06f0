"""A ResNet-18 as torchvision has it, for tests on machines where torchvision is not or does not import.

Post-activation blocks with in-place ReLU and `out += identity`, which is what makes it hard to probe.
"""

import sys
import types

import pytest
import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        widths = (64, 64, 128, 256, 512)
        for stage in (1, 2, 3, 4):
            before, after = widths[stage - 1], widths[stage]
            first = BasicBlock(before, after, 1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", nn.Sequential(first, BasicBlock(after, after, 1)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(*, weights: None = None, num_classes: int = 1000) -> ResNet18:
    """Fresh weights; `weights` other than None would be a download."""
    if weights is not None:
        raise ValueError("The stand-in has no pretrained weights. Pass weights=None.")
    return ResNet18(num_classes)


def provide_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision.models, or where it does not import the same network from plain torch."""
    try:
        import torchvision.models  # noqa: F401
    except (ImportError, RuntimeError):
        models = types.ModuleType("torchvision.models")
        models.resnet18 = resnet18
        package = types.ModuleType("torchvision")
        package.models = models
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
