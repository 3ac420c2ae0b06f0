"""The one shape that all networks here have: a stem, a row of blocks, a head."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn


class Network(nn.Module):
    """`head(blocks(stem(x)))`.

    Args:
        stem: What comes before the first block; `nn.Identity` where there is nothing.
        blocks: The repeated part, in the order of the forward pass; `network.blocks[3]` is the fourth.
        head: The readout.
        flatten: Whether inputs with more than two dimensions, such as images [N, C, H, W], become rows
            [N, C*H*W] first, as networks of fully connected layers need. Vectors stay as they are.
    """

    def __init__(
        self, stem: nn.Module, blocks: Iterable[nn.Module], head: nn.Module, *, flatten: bool = False
    ):
        super().__init__()
        self.flatten = flatten
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        if self.flatten and inputs.ndim > 2:
            inputs = inputs.flatten(start_dim=1)
        outputs: Tensor = self.head(self.blocks(self.stem(inputs)))
        return outputs


def chain(**modules: nn.Module | None) -> nn.Sequential:
    """The modules one after the other, each under its own name; those that are None are left out."""
    return nn.Sequential(
        OrderedDict((name, module) for name, module in modules.items() if module is not None)
    )
