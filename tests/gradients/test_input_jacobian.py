"""Jacobians against torch.autograd.functional.jacobian, one example at a time."""

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from networks import NETWORKS
from torch import nn

from gradscope.gradients.input_jacobian import live_jacobian
from gradscope.problem import Problem


def reference(problem: Problem, examples: int) -> torch.Tensor:
    """Blocks d output_i / d input_i of the Jacobian of the whole batch."""
    with problem.prepared():
        inputs = problem.first_batch()[0]
        whole = torch.autograd.functional.jacobian(problem.outputs, inputs)
    rows = [whole[i, :, i].flatten(start_dim=1) for i in range(examples)]
    return torch.stack(rows)


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"batch norm train"}))
def test_dense_is_the_block_of_each_example(case):
    problem = CASES[case]()
    with live_jacobian(problem, examples=3) as jacobian:
        dense, mode = jacobian.dense()
        assert jacobian.shape == (3, dense.shape[2]) and mode == "reverse"
        vectors = torch.randn(3, 3, dtype=torch.float64)
        products = jacobian.transposed(vectors)
    expected = reference(problem, 3)
    torch.testing.assert_close(dense, expected)
    torch.testing.assert_close(products, torch.einsum("eoi,eo->ei", expected, vectors))


def test_own_is_the_block_of_the_coupled_jacobian_and_frozen_is_not():
    train = CASES["batch norm train"]()
    own = Problem(train.model, train.data, batch_norm="own")
    with live_jacobian(own, examples=2) as jacobian:
        exact = jacobian.dense()[0]
    torch.testing.assert_close(exact, reference(own, 2))
    with live_jacobian(Problem(train.model, train.data, batch_norm="frozen"), examples=2) as jacobian:
        assert (jacobian.dense()[0] - exact).abs().max() > 1e-3


def wide() -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(inplace=True), nn.Linear(5, 7), nn.Tanh()).double()
        return Problem(net, torch.randn(4, 2, dtype=torch.float64))


def test_fewer_inputs_than_outputs_go_forward():
    problem = wide()
    with live_jacobian(problem, examples=4) as jacobian:
        dense, mode = jacobian.dense()
    assert mode == "forward"
    torch.testing.assert_close(dense, reference(problem, 4))


class Squared(torch.autograd.Function):
    """Has a derivative, but no second one."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


class SquaredModule(nn.Module):
    def forward(self, x):
        return Squared.apply(x)


def test_what_has_no_second_derivative_goes_in_reverse():
    problem = wide()
    problem.model.append(SquaredModule())
    with live_jacobian(problem, examples=4) as jacobian:
        dense, mode = jacobian.dense()
    assert mode == "reverse"
    torch.testing.assert_close(dense, reference(problem, 4))


def test_between_two_sites_the_chain_rule_holds():
    problem = CASES["plain"]()
    parts = []
    for of in (("input", "1"), ("1", "2"), ("2", "output"), ("input", "output")):
        with live_jacobian(problem, of, examples=7) as jacobian:
            parts.append(jacobian.dense()[0])
    torch.testing.assert_close(parts[2] @ parts[1] @ parts[0], parts[3])
    weight = problem.model[2].weight
    torch.testing.assert_close(parts[1], weight.detach().expand(7, *weight.shape))


def test_a_site_before_an_in_place_operation_is_read_before_it():
    problem = wide()
    with live_jacobian(problem, ("input", "0"), examples=4) as jacobian:
        dense = jacobian.dense()[0]
    torch.testing.assert_close(dense, problem.model[0].weight.detach().expand(4, 5, 2))


def test_tokens_are_differentiated_at_their_embedding():
    specimen = NETWORKS["tokens"]
    model = used(specimen.build())
    before = snapshot(model)
    with live_jacobian(Problem(model, specimen.inputs()), examples=1) as jacobian:
        dense, _ = jacobian.dense()
        assert dense.shape == (1, *jacobian.shape) and dense.abs().max() > 0
    assert_as_found(model, before)
    with pytest.raises(KeyboardInterrupt), live_jacobian(Problem(model, specimen.inputs()), examples=1):
        raise KeyboardInterrupt
    assert_as_found(model, before)


@pytest.mark.parametrize(
    ("of", "match"),
    [
        (("output", "input"), "of is a pair"),
        ("input", "of is a pair"),
        (("2", "0"), "0 does not depend on 2"),
        (("input", "*"), "matches 5 sites"),
        (("input", "nowhere"), "No site"),
    ],
)
def test_bad_places_are_refused(of, match):
    with pytest.raises(ValueError, match=match):
        with live_jacobian(CASES["plain"](), of):
            pass


def test_a_site_that_runs_twice_is_refused():
    with pytest.raises(ValueError, match="ran 2 times"):
        with live_jacobian(
            Problem(Twice().double(), torch.randn(3, 2, dtype=torch.float64)), ("input", "layer")
        ):
            pass


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(self.layer(x))
