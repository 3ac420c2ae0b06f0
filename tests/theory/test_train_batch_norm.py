"""Gradients of summed outputs through train-mode batch normalisation, by autograd."""

import pytest
import torch
from torch import nn

from gradscope.theory import train_batch_norm_correlation


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


def summed_gradient_correlation(layers, width=6, examples=9):
    torch.manual_seed(0)
    net = nn.Sequential(*layers(width), nn.Linear(width, 3)).double()
    x = torch.randn(examples, width, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(net(x).sum(), x)
    gram = g @ g.T
    off = gram.sum() - gram.trace()
    return float(off / (examples - 1) / gram.trace())


def plain(depth, first_linear=True):
    def layers(width):
        block = [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
        return [m for _ in range(depth) for m in (block if first_linear else block[1:] + block[:1])]

    return layers


@pytest.mark.parametrize("depth", [1, 4, 12])
@pytest.mark.parametrize("first_linear", [True, False])
def test_the_correlation_is_pinned_at_any_depth(depth, first_linear):
    found = summed_gradient_correlation(plain(depth, first_linear))
    assert found == pytest.approx(train_batch_norm_correlation(9), abs=1e-10)
    assert train_batch_norm_correlation(9) == -0.125


def test_linear_then_batch_norm_pins_it_whatever_follows():
    def layers(width):
        return [nn.Linear(width, width), nn.BatchNorm1d(width), Residual(nn.Linear(width, width)), nn.Tanh()]

    assert summed_gradient_correlation(layers) == pytest.approx(-0.125, abs=1e-10)


def test_a_skip_around_it_does_not():
    def layers(width):
        return [Residual(nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)))]

    assert summed_gradient_correlation(layers) > 0.1


def test_subtracting_the_mean_gradient_gives_the_same_number():
    g = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    g = g - g.mean(dim=0)
    gram = g @ g.T
    found = float((gram.sum() - gram.trace()) / 8 / gram.trace())
    assert found == pytest.approx(train_batch_norm_correlation(9), abs=1e-12)


def test_one_example_is_refused():
    with pytest.raises(ValueError, match="examples is a whole number of at least 2"):
        train_batch_norm_correlation(1)
