"""Networks of two-layer shortcuts at zero weights, about which everything is known (reference: arXiv:1611.01186)."""

import torch
from cases import Residual
from torch import Tensor, nn

from gradscope.problem import Problem


def zero_point(blocks: int = 2, width: int = 3, inner: int = 2) -> Problem:
    """Linear residual blocks x + W2 W1 x with all weights zero, half the squared error."""
    generator = torch.Generator().manual_seed(6)
    layers = [
        Residual(nn.Sequential(nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)))
        for _ in range(blocks)
    ]
    net = nn.Sequential(*layers).double()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    data = tuple(torch.randn(9, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return Problem(net, data, "half_squared_error")


def residual_correlation(problem: Problem) -> Tensor:
    """G = E[(x - y) x^T], whose singular values, plus and minus, are the Hessian's eigenvalues."""
    ((inputs, targets),) = problem.batches()
    return (inputs - targets).T @ inputs / len(inputs)
