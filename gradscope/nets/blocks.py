"""The residual block, and the shortcut without parameters for blocks that change shape."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """`after(alpha * (shortcut(z) + beta * branch(z)))` with `z = before(x)`.

    Args:
        branch: The residual function F.
        shortcut: The skip, `nn.Identity()` in most blocks. None leaves the addition out, which makes the
            block of a plain network under the same names.
        alpha: Scale of the whole, as in Balduzzi et al. (2017, arXiv:1702.08591), eq. 2.
        beta: Scale of the branch, as in Inception-v4 (Szegedy et al. 2016, arXiv:1602.07261).
        before: What branch and shortcut share, as the BN-ReLU before a pre-activation projection
            (He et al. 2016, arXiv:1603.05027).
        after: What follows the addition, as the ReLU of He et al. (2015, arXiv:1512.03385).

    A scale of 1 is not multiplied by.
    """

    def __init__(
        self,
        branch: nn.Module,
        shortcut: nn.Module | None,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
    ):
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.before = before
        self.branch = branch
        self.shortcut = shortcut
        self.after = after

    def forward(self, inputs: Tensor) -> Tensor:
        if self.before is not None:
            inputs = self.before(inputs)
        outputs: Tensor = self.branch(inputs)
        if self.beta != 1:
            outputs = self.beta * outputs
        if self.shortcut is not None:
            outputs = self.shortcut(inputs) + outputs
        if self.alpha != 1:
            outputs = self.alpha * outputs
        return outputs if self.after is None else self.after(outputs)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}"


class Parallel(nn.Sequential):
    """F_1(x) + ... + F_k(x): several residual functions of one block (Abdi & Nahavandi 2016, arXiv:1609.05672)."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, *others = self
        outputs: Tensor = first(inputs)
        for function in others:
            outputs = outputs + function(inputs)
        return outputs


def together(functions: Sequence[nn.Module]) -> nn.Module:
    """One residual function as it is, or several added up."""
    return functions[0] if len(functions) == 1 else Parallel(*functions)


class SubsampleAndPad(nn.Module):
    """Every `stride`-th pixel, and zeros in the channels that are new: [N, C, H, W] to [N, C', H', W'].

    Option A of He et al. (2015), arXiv:1512.03385, section 4.2: it has no parameters. H' = ceil(H / stride).
    """

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, inputs: Tensor) -> Tensor:
        kept = inputs[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"
