"""Junctions named by hand, for sums that nobody can see."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from as_found import assert_as_found, snapshot
from hand_written import HAND_WRITTEN
from networks import NETWORKS, Residual, mlp
from torch import nn

from gradscope.instruments.gates import (
    closable,
    cut_skips,
    junction_by_hand,
    lesion,
    scale_branches,
    stochastic_depth,
)
from gradscope.instruments.junctions import junctions


class FusedSum(torch.autograd.Function):
    """skip + branch, as a kernel would add them: no addition is called from Python, and none is in the graph."""

    @staticmethod
    def forward(ctx, skip, branch):
        with torch._C.DisableTorchFunction():
            return skip + branch

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


class FusedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.skip, self.branch = nn.Identity(), mlp(4, 3, 4)

    def forward(self, x):
        return FusedSum.apply(self.skip(x), self.branch(x))


def fused_and_found():
    """A fused block, an ordinary one, another fused one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), FusedBlock(), Residual(mlp(4, 3, 4)), FusedBlock()).double().eval()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_hand = [junction_by_hand(model, f"{place}.branch", skip=f"{place}.skip") for place in (1, 3)]
    return model, x, by_hand


def forward(model, x, branch=lambda place, value: value, skip=lambda place, value: value):
    x = model[0](x)
    for place, block in enumerate(model[1:]):
        x = skip(place, x) + branch(place, block.branch(x))
    return x


@pytest.mark.filterwarnings("ignore")
def test_a_fused_sum_is_not_found_but_can_be_lesioned_by_hand():
    model, x, by_hand = fused_and_found()
    found = junctions(model, x)
    assert [j.name for j in found] == ["2:0"]
    both = [by_hand[0], found[0]]
    before = snapshot(model)
    for hit, places in (([by_hand[1]], [2]), (both, [0, 1]), ([*both, by_hand[1]], [0, 1, 2])):
        with lesion(model, hit):
            assert torch.equal(model(x), forward(model, x, lambda i, v, p=places: v * 0 if i in p else v))
    with scale_branches(model, both, [0.5, -3.0]):
        assert torch.equal(model(x), forward(model, x, lambda i, v: v * (0.5, -3.0, 1.0)[i]))
    with cut_skips(model, both):
        assert torch.equal(model(x), forward(model, x, skip=lambda i, v: v * (0.0, 0.0, 1.0)[i]))
    with stochastic_depth(model, both, survival=[0.2, 0.7]):
        assert torch.equal(model(x), forward(model, x, lambda i, v: v * (0.2, 0.7, 1.0)[i]))
    with lesion(model, both, kind="mean"):
        expected = forward(model, x, lambda i, v: v.mean(dim=0).expand_as(v) if i < 2 else v)
        torch.testing.assert_close(model(x), expected)
    reference = x[:2] + 1
    heard = {}
    forward(model, reference, lambda i, v: heard.setdefault(i, v))
    with lesion(model, both, kind="mean", reference=reference):
        expected = forward(model, x, lambda i, v: heard[i].mean(dim=0).expand_as(v) if i < 2 else v)
        torch.testing.assert_close(model(x), expected)
    assert_as_found(model, before)


@pytest.mark.parametrize("name", ["post-activation", "out-of-place", "pre-activation"])
@pytest.mark.parametrize("kind", ["zero", "mean", "resample", "scale"])
def test_by_hand_is_by_number_where_the_branch_is_a_module(name, kind):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    last = "branch" if name == "pre-activation" else "bn2"
    options = {"factor": 0.3} if kind == "scale" else {}
    for junction in junctions(model, x):
        module, _, _ = junction.name.rpartition(":")
        by_hand = junction_by_hand(
            model, f"{module}.{last}", name=junction.name, kind=junction.kind, index=junction.index
        )
        with lesion(model, junction, kind=kind, **options):
            expected = model(x)
        with lesion(model, by_hand, kind=kind, **options):
            assert torch.equal(model(x), expected)
            torch.autograd.grad(model(x).sum(), list(model.parameters()), allow_unused=True)


def test_several_branches_of_one_sum():
    specimen = NETWORKS["parallel transformer"]
    model, x = specimen.build(), specimen.inputs()
    junction = junction_by_hand(model, ["1.attention", "1.mlp"], index=1)
    expected = HAND_WRITTEN["parallel transformer"](model, x, lambda i, o, v: v * 0 if i == 1 else v)
    with lesion(model, junction):
        assert torch.equal(model(x), expected)
    with stochastic_depth(model, junction, survival=0.5, training=True):
        outputs = [model(x) for _ in range(20)]
    assert {min(torch.equal(y, expected), 1) + 2 * torch.equal(y, model(x)) for y in outputs} == {1, 2}


Pair = namedtuple("Pair", "states weights")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: (value, 7),
        lambda value: [None, value],
        lambda value: Pair(value, 7),
        lambda value: {"weights": 7, "states": (value, value)},
        lambda value: OrderedDict(states=value),
    ],
)
def test_the_first_tensor_of_an_output_is_replaced_and_the_structure_kept(wrap):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return wrap(self.linear(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = Branch()

        def forward(self, x):
            return self.branch(x)

    model, x = Net(), torch.randn(2, 3)
    with lesion(model, junction_by_hand(model, "branch")):
        gated = model(x)
    expected = wrap(torch.zeros(2, 3))
    assert type(gated) is type(expected)
    if isinstance(gated, dict):
        gated, expected = list(gated.items()), list(expected.items())
    assert flattened(gated)[1] == flattened(expected)[1] and not flattened(gated)[0][0].any()


def flattened(output):
    if isinstance(output, torch.Tensor):
        return [output], ["tensor"]
    if not isinstance(output, tuple | list):
        return [], [output]
    parts = [flattened(part) for part in output]
    return [tensor for tensors, _ in parts for tensor in tensors], [rest for _, rest in parts]


def test_attributes():
    model, _, _ = fused_and_found()
    junction = junction_by_hand(model, "1.branch", kind="projection", index=3, level=1, shape=(5, 4))
    assert (junction.name, junction.kind, junction.index) == ("1.branch", "projection", 3)
    assert (junction.level, junction.shape, junction.number) == (1, (5, 4), None)
    assert junction.graded and closable(junction) and not closable(junction, "skips")
    assert hash(junction) and junction_by_hand(model, "1.branch", name="fused").name == "fused"


def test_what_cannot_be_named_by_hand():
    model, _, by_hand = fused_and_found()
    with pytest.raises(ValueError, match=r"Sequential has no module '1.branches'. 1 holds: 1.skip, 1.branch"):
        junction_by_hand(model, "1.branches")
    with pytest.raises(ValueError, match=r"has no module '9.skip'. Close names: 1.skip, 3.skip"):
        junction_by_hand(model, "1.branch", skip="9.skip")
    with pytest.raises(ValueError, match=r"of kind identity, projection, nonparam-skip, concat, got 'gated'"):
        junction_by_hand(model, "1.branch", kind="gated")
    with pytest.raises(ValueError, match=r"at least one branch module, got none"):
        junction_by_hand(model, [])
    with pytest.raises(
        ValueError, match=r"1.branch is of kind identity with 0 replaceable operands among its skips"
    ):
        with cut_skips(model, junction_by_hand(model, "1.branch")):
            pass
    with pytest.raises(ValueError, match=r"Sequential has no module '3.branch'"):
        with lesion(model[:2], by_hand[1]):
            pass


def test_a_module_that_does_not_run_exactly_once_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.times = nn.Linear(3, 3), 1

        def forward(self, x):
            for _ in range(self.times):
                x = x + self.branch(x)
            return x

    model, x = Net(), torch.randn(2, 3)
    junction = junction_by_hand(model, "branch")
    for times in (0, 2):
        model.times = times
        with (
            lesion(model, junction),
            pytest.raises(RuntimeError, match=rf"Module branch ran {times} times in this"),
        ):
            model(x)
    model.times = 1
    with lesion(model, junction):
        for _ in range(2):
            assert torch.equal(model(x), x)
        assert model.branch(x).any(), "outside of the network's own forward, its modules are as ever"


def test_a_module_without_a_tensor_in_its_output_is_refused():
    class Number(nn.Module):
        def forward(self, x):
            return 3.0

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = Number()

        def forward(self, x):
            return x + self.branch(x)

    model = Net()
    with lesion(model, junction_by_hand(model, "branch")):
        with pytest.raises(TypeError, match=r"this one is a float in which none was found"):
            model(torch.randn(2))
