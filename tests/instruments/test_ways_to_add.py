"""Every way to write a residual sum, fused ones included: found, closed bit for bit, and gated in the backward pass."""

import pytest
import torch
from networks import NETWORKS, Highway, Written, mlp
from torch import nn

from gradscope.instruments.junctions import junctions, trace
from gradscope.instruments.junctions.calls import additions

ADDITIONS = {
    "x + f": lambda x, f: x + f,
    "f + x": lambda x, f: f + x,
    "add": lambda x, f: torch.add(x, f),
    "alpha": lambda x, f: torch.add(x, f, alpha=0.5),
    "keywords": lambda x, f: torch.add(input=x, other=f),
    "method": lambda x, f: x.add(f),
    "method, keyword": lambda x, f: x.add(other=f, alpha=2),
    "in place": lambda x, f: f.add_(x),
    "in place on the skip": lambda x, f: x.clone().add_(f),
    "x - f": lambda x, f: x - f,
    "subtract": lambda x, f: torch.subtract(x, f, alpha=0.5),
    "sub": lambda x, f: x.sub(f),
    "in place sub": lambda x, f: f.sub_(x),
    "rsub": lambda x, f: torch.rsub(x, f),
    "scaled": lambda x, f: x + 0.1 * f,
    "sum": lambda x, f: sum([x, f]),
    "lerp": lambda x, f: torch.lerp(x, f, 0.3),
    "lerp, tensor": lambda x, f: x.lerp(f, torch.tensor(0.3).to(x)),
    "in place lerp": lambda x, f: f.lerp_(x, 0.3),
    "lerp, keywords": lambda x, f: torch.lerp(x, end=f, weight=0.3),
    "addmm": lambda x, f: torch.addmm(x, f, torch.eye(4).to(x)),
    "addmm, right factor": lambda x, f: torch.addmm(x, torch.eye(len(x)).to(x), f),
    "addmm, keywords": lambda x, f: x.addmm(mat1=f, mat2=torch.eye(4).to(x), alpha=0.5),
    "in place addmm": lambda x, f: x.clone().addmm_(f, torch.eye(4).to(x)),
    "baddbmm": lambda x, f: torch.baddbmm(x[None], f[None], torch.eye(4).to(x)[None])[0],
    "in place baddbmm": lambda x, f: x[None].clone().baddbmm_(f[None], torch.eye(4).to(x)[None])[0],
    "addbmm": lambda x, f: torch.addbmm(x, f[None], torch.eye(4).to(x)[None]),
    "addmv": lambda x, f: torch.addmv(x.flatten(), torch.eye(x.numel()).to(x), f.flatten()).view_as(x),
    "addr": lambda x, f: torch.addr(x, f[:, 0], torch.ones(4).to(x)),
    "addcmul": lambda x, f: torch.addcmul(x, torch.full_like(f, 0.1).detach(), f),
    "in place addcmul": lambda x, f: x.clone().addcmul_(f, torch.full_like(f, 0.1).detach(), value=0.5),
    "addcmul, keywords": lambda x, f: torch.addcmul(x, tensor1=f, tensor2=torch.ones(4).to(x)),
    "addcdiv": lambda x, f: torch.addcdiv(x, f, torch.full_like(f, 2.0).detach()),
    "stack and sum": lambda x, f: torch.stack([x, f]).sum(dim=0),
    "stack and sum, from the end": lambda x, f: torch.sum(torch.stack((x, f), -2), 1),
    "stack and mean": lambda x, f: torch.stack(tensors=[f, x], dim=1).mean(dim=1),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ADDITIONS)
def test_every_way_to_write_an_addition(name, frozen):
    """The branch is found, and closing it in the forward pass is a branch that returns zeros, bit for bit."""
    model = Written(ADDITIONS[name]).double().requires_grad_(not frozen)
    x = torch.randn(2, 4, dtype=torch.float64)
    (found,) = junctions(model, x)
    # Where the operation wants vectors or batches of matrices, the skip is reshaped on its way.
    shape = {"baddbmm": (1, 2, 4), "in place baddbmm": (1, 2, 4), "addmv": (8,)}.get(name)
    kind = "identity" if shape is None else "nonparam-skip"
    assert (found.name, found.kind, found.level, found.shape) == (":0", kind, 0, shape or (2, 4))
    assert found.number is not None and {number for number, _ in found.branches + found.skips} == {
        found.number
    }
    assert len(found.branches) == len(found.skips) == 1
    for keys, closed in ((found.branches, "branch"), (found.skips, "skip")):
        with additions(model, dict.fromkeys(keys, torch.zeros_like)):
            gated = model(x.clone())
        branch, skip = model.branch(x), x.clone()
        expected = (
            ADDITIONS[name](skip, branch * 0) if closed == "branch" else ADDITIONS[name](skip * 0, branch)
        )
        assert torch.equal(gated, expected)
    with additions(model, dict.fromkeys(found.branches + found.skips, lambda operand: operand)):
        assert torch.equal(model(x.clone()), ADDITIONS[name](x.clone(), model.branch(x)))


def test_a_constant_beside_an_operand_changes_nothing():
    model = Written(lambda x, f: x + (f + 1.0))
    assert [(j.kind, j.branches) for j in junctions(model, torch.randn(2, 4))] == [("identity", ((0, 1),))]


@pytest.mark.parametrize("write", [lambda s, f: s + f, lambda s, f: torch.stack([s, f]).sum(0)])
def test_a_sum_over_a_stack_may_have_a_projection_for_its_skip(write):
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.skip, self.branch = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return write(self.skip(x), self.branch(x).tanh())

    (found,) = junctions(Projected(), torch.randn(2, 4))
    assert (found.kind, found.branches, found.skips) == ("projection", ((0, 1),), ((0, 0),))


@pytest.mark.parametrize("name", ADDITIONS)
def test_edges_of_every_addition_carry_the_gradient(name):
    """Zeroing what arrives at the branch's edges leaves the gradient of the skip alone."""
    model = Written(ADDITIONS[name]).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    found = trace(model, model, x)
    ((edge, *others),) = found.branch_edges
    slots = {e.slot for e in (edge, *others)}
    assert {e.node for e in others} <= {edge.node}
    handle = edge.node.register_hook(
        lambda inputs, outputs: tuple(
            g if g is None or s not in slots else g * 0 for s, g in enumerate(inputs)
        )
    )
    (gradient,) = torch.autograd.grad(found.output.square().sum() / 2, found.source, retain_graph=True)
    handle.remove()
    leaf = x.clone().requires_grad_()
    out = ADDITIONS[name](leaf.clone(), model.branch(x).detach())
    (expected,) = torch.autograd.grad(out, leaf, out.detach())
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "join",
    [
        lambda x, f: torch.stack([x, f]).sum(dim=1),
        lambda x, f: torch.stack([x, f]).sum(),
        lambda x, f: x * f,
        lambda x, f: torch.addcmul(f, x, f),
        lambda x, f: torch.maximum(x, f),
    ],
)
def test_what_is_no_residual_sum(join):
    assert not [j for j in junctions(Written(join), torch.randn(2, 4)) if j.kind == "identity"]


def test_a_product_of_two_live_values_is_closed_by_one_factor():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = mlp(4, 3, 4), mlp(4, 3, 4)

        def forward(self, x):
            return torch.addcmul(x, self.one(x), self.two(x))

    model, x = Product(), torch.randn(2, 4)
    (found,) = trace(model, model, x).junctions
    assert found.kind == "identity" and found.branches == ((0, 1),)
    assert [edge.slot for edge in trace(model, model, x).branch_edges[0]] == [1, 2]


def test_a_highway_written_as_lerp_is_gated():
    class Lerp(Highway):
        def forward(self, x):
            return torch.lerp(x, self.plain(x).tanh(), self.gate(x).sigmoid())

    assert [j.kind for j in junctions(Lerp(4), torch.randn(2, 4))] == ["gated"]


def test_a_sum_in_place_on_a_view_is_closed_as_any_other():
    """A linear layer with bias returns a view when its input has three dimensions."""
    specimen = NETWORKS["in place on a view"]
    model, x = specimen.build(), specimen.inputs()
    found = junctions(model, x)
    assert [(j.name, j.shape, j.branches, j.skips) for j in found] == [
        (f"{b}:0", (4, 5, 4), ((b, 0),), ((b, 1),)) for b in (0, 1)
    ]
    with additions(model, dict.fromkeys(found[0].branches, torch.zeros_like)):
        assert torch.equal(model(x), model[1:](x))


def test_an_operand_that_lies_in_the_memory_of_the_sum_is_kept():
    class Doubled(nn.Module):
        def forward(self, x):
            y = x * 1
            return y.add_(y)

    x = torch.randn(3)
    for slot in (0, 1):
        with additions(Doubled(), {}) as counter:
            pass
        model = Doubled()
        with additions(model, {(0, slot): torch.zeros_like}) as counter:
            assert torch.equal(model(x), x)
        assert counter.count == 1
