"""Linear residual networks whose Hessian at zero weights is known in closed form."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gradscope.problem import Problem


class ShortcutBlock(nn.Module):
    """x + W_n ... W_1 x, all weights zero."""

    def __init__(self, width: int, inner: int, layers: int) -> None:
        super().__init__()
        widths = [width, *[inner] * (layers - 1), width]
        self.branch = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in pairwise(widths)])
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def zero_point(width: int, inner: int, blocks: int, layers: int = 2, seed: int = 0) -> tuple[Problem, Tensor]:
    """The problem, and the singular values, descending, of G = Sigma_XX - Sigma_YX."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(40, width, generator=generator, dtype=torch.float64)
    targets = torch.randn(40, width, generator=generator, dtype=torch.float64)
    net = nn.Sequential(*[ShortcutBlock(width, inner, layers) for _ in range(blocks)]).double()
    residual_correlation = (inputs - targets).T @ inputs / len(inputs)
    return Problem(net, (inputs, targets), "half_squared_error"), torch.linalg.svdvals(residual_correlation)
