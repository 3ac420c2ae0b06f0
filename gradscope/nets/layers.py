"""Layers that torch lacks, and those that the options `normalise` and `activation` stand for."""

import torch
from torch import Tensor, nn

from gradscope.nets.options import choice

NORMALISE = ("none", "mean", "batch")
ACTIVATION = ("relu", "prelu", "crelu", "linear")


class Centre(nn.Module):
    """`x - mean(x)` over the batch, with the mean treated as a constant by differentiation.

    It keeps every unit active on about half of the inputs and every pair of inputs co-active on a quarter
    of the units, the assumption of the theorems of Balduzzi et al. (2017, arXiv:1702.08591), without the
    rescaling of batch normalisation. Since the mean is detached, the gradient of one example stays its own.
    It uses the batch's mean in train and in eval mode alike. Shapes: [N, ...] to [N, ...].
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.detach().mean(dim=0, keepdim=True)


class CReLU(nn.Module):
    """`(relu(x), relu(-x))`, side by side: [N, C, ...] to [N, 2C, ...], and [C] to [2C].

    The sign matters: a following weight [W, -W] gives W relu(x) - W relu(-x) = W x, so that the layer looks
    linear. With the other convention, (relu(x), -relu(-x)), the same weight would give W |x|.

    Source: Shang et al. (2016), arXiv:1603.05201.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat((inputs.relu(), (-inputs).relu()), dim=min(1, inputs.ndim - 1))


def normalisation(name: str, width: int) -> nn.Module | None:
    """`none`: None; `mean`: `Centre`; `batch`: batch normalisation without scale and shift."""
    choice("normalise", name, NORMALISE)
    if name == "none":
        return None
    return Centre() if name == "mean" else nn.BatchNorm1d(width, affine=False)


def activation_of(name: str, width: int) -> tuple[nn.Module, int]:
    """The activation, and how many features it makes of `width` units: `crelu` doubles them."""
    choice("activation", name, ACTIVATION)
    if name == "crelu":
        return CReLU(), 2 * width
    return {"relu": nn.ReLU, "prelu": nn.PReLU, "linear": nn.Identity}[name](), width
