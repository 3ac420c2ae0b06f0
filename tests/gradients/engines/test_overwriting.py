"""Backward functions that write into the cotangent they are given, as published ones do."""

import pytest
import torch
from networks import Residual, stack
from torch import Tensor, nn

from gradscope.gradients.engines.choice import ENGINES
from gradscope.gradients.live import open_paths
from gradscope.problem import Problem


class Overwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return value * 0.5

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.mul_(0.5)


class Branch(nn.Module):
    """One such function, at the end of the branch or before it."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), last

    def forward(self, x: Tensor) -> Tensor:
        x = Overwriting.apply(self.layer(x))
        return x if self.last else x.tanh()


def problem_of(last: bool) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, x = stack(lambda: Residual(Branch(last)), 5).double(), torch.randn(3, 4).double()
    return Problem(model, (x, torch.tensor([0, 2, 1])))


def test_inside_a_branch_it_may():
    with open_paths(problem_of(last=False)) as paths:
        walked, expected = (paths.graded(engine=engine).gradients for engine in ("walk", "passes"))
    torch.testing.assert_close(walked, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("engine", ENGINES)
def test_where_the_skip_is_given_the_same_cotangent_autograd_is_wrong_and_all_engines_say_so(engine):
    with (
        open_paths(problem_of(last=True)) as paths,
        pytest.raises(RuntimeError, match=r"cannot be walked|torch\.vmap|add up to the gradient only"),
    ):
        paths.graded(engine=engine)
