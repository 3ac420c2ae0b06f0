"""What a sum makes of its skip, and what its branch adds: exactly what closing the branch leaves and takes."""

import pytest
import torch
from networks import Residual, mlp
from torch import Tensor, nn

from gradscope.instruments.gates import lesion
from gradscope.instruments.junctions import trace
from gradscope.instruments.junctions.operand_factors import operand_factor
from gradscope.instruments.streams import streams

WEIGHTS = torch.tensor([0.25, 0.5, 1.5], dtype=torch.float64)


def in_place(x: Tensor, f: Tensor) -> Tensor:
    x = x.clone()
    x += f
    return x


SUMS = {
    "x + f": (lambda x, f: x + f, 1, 1),
    "f + x": (lambda x, f: f + x, 1, 1),
    "x - f": (lambda x, f: x - f, 1, -1),
    "f - x": (lambda x, f: f - x, -1, 1),
    "x += f": (in_place, 1, 1),
    "add, alpha on the branch": (lambda x, f: torch.add(x, f, alpha=0.5), 1, 0.5),
    "add, alpha on the skip": (lambda x, f: torch.add(f, x, alpha=2), 2, 1),
    "sub": (lambda x, f: torch.sub(x, f, alpha=3), 1, -3),
    "sub from the branch": (lambda x, f: torch.sub(f, x, alpha=3), -3, 1),
    "rsub": (lambda x, f: torch.rsub(f, x, alpha=3), 1, -3),
    "lerp": (lambda x, f: torch.lerp(x, f, 0.3), 0.7, 0.3),
    "lerp from the branch": (lambda x, f: torch.lerp(f, x, 0.3), 0.3, 0.7),
    "lerp by channel": (lambda x, f: torch.lerp(x, f, WEIGHTS), 1 - WEIGHTS, WEIGHTS),
    "stack, sum": (lambda x, f: torch.stack([x, f]).sum(0), 1, 1),
    "stack, mean": (lambda x, f: torch.stack([f, x]).mean(0), 0.5, 0.5),
    "three": (lambda x, f: (x + f) - 2 * f, 1, -1),
    "nested": (lambda x, f: torch.sub(f, torch.add(f, x, alpha=3), alpha=2), -6, -1),
    "addmm": (lambda x, f: torch.addmm(x, f, torch.eye(3).double(), beta=0.5, alpha=2), 0.5, 2),
    "addcmul": (lambda x, f: torch.addcmul(x, f, WEIGHTS, value=2), 1, 2 * WEIGHTS),
}


class Block(Residual):
    def __init__(self, add) -> None:
        super().__init__(mlp(3, 3))
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.branch(x))


@pytest.mark.parametrize("name", SUMS)
def test_base_and_branch_are_what_a_lesion_leaves_and_takes(name):
    add, of_skip, of_branch = SUMS[name]
    torch.manual_seed(0)
    block, x = Block(add).double(), torch.randn(5, 3, dtype=torch.float64)
    model = nn.Sequential(block)
    (junction,) = [j for j in trace(model, model, x).junctions if j.graded]
    with streams(model, [junction]) as heard:
        output = model(x.clone().requires_grad_())
    with torch.no_grad(), lesion(model, junction):
        left = model(x)
    (stream,) = heard
    torch.testing.assert_close(stream.skip, x)
    torch.testing.assert_close(stream.base, of_skip * x)
    torch.testing.assert_close(stream.base, left)
    torch.testing.assert_close(stream.branch, of_branch * block.branch(x).detach())
    torch.testing.assert_close(stream.base + stream.branch, output.detach())


@pytest.mark.parametrize("add", [lambda x, f: torch.lerp(x, f, 0.25), lambda x, f: torch.add(f, x, alpha=2)])
def test_a_branch_far_below_the_rounding_of_a_weighted_stream_is_heard_exactly(add):
    torch.manual_seed(0)
    block, x = Block(add), torch.randn(5, 3)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(1e-12)
    model = nn.Sequential(block)
    with streams(model, [j for j in trace(model, model, x).junctions if j.graded]) as heard:
        model(x.clone().requires_grad_())
    factor = 0.25 if float(add(torch.ones(1), torch.zeros(1))) == 0.75 else 1
    assert torch.equal(heard[0].branch, factor * block.branch(x).detach())


def test_factors_of_a_product_are_not_told():
    x = torch.randn(3, 3, requires_grad=True)
    node = torch.addmm(x, x, x).grad_fn
    assert [operand_factor(node, slot) for slot in range(3)] == [1.0, None, None]
    assert operand_factor(x.exp().grad_fn, 0) is None


class Copied(nn.Module):
    """One block whose skip is a copy for itself alone, or one that the branch reads too."""

    def __init__(self, copy, shared: bool) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(3, 3), mlp(3, 3), nn.Linear(3, 2)
        self.copy, self.shared = copy, shared

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.stem(x)))

    def after(self, h: Tensor) -> Tensor:
        skip = self.copy(h)
        return skip + self.branch(skip if self.shared else h)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "copy", [lambda h: h, lambda h: h.clone(), lambda h: 0 + h.clone(), lambda h: h.clone().clone()]
)
def test_the_gradient_at_the_input_goes_through_skip_and_branch(copy, shared):
    torch.manual_seed(0)
    model, x = Copied(copy, shared).double(), torch.randn(5, 3, dtype=torch.float64)
    (junction,) = [j for j in trace(model, model, x).junctions if j.graded]
    assert junction.kind == "identity"
    with streams(model, [junction]) as heard:
        output = model(x.clone().requires_grad_())
    (found,) = torch.autograd.grad(output.square().sum(), [heard[0].input_edge])
    h = model.stem(x).detach().requires_grad_()
    (wanted,) = torch.autograd.grad(model.head(model.after(h)).square().sum(), h)
    torch.testing.assert_close(found, wanted)
