"""Two ways to the same products: rules and double backward."""

from typing import Any

import pytest
import torch
from cases import classes
from curvature_cases import CURVATURE_CASES
from torch import Tensor, nn

from gradscope.curvature import empirical_fisher, gauss_newton
from gradscope.curvature.gradient_graph import exact_derivatives
from gradscope.curvature.jacobian_graph import JacobianGraph
from gradscope.curvature.ruled_jacobian import RuledJacobianGraph
from gradscope.problem import Problem
from tests.curvature.references import assert_same_matrix, dense_fisher, dense_gauss_newton

WITHOUT_RULES = {"recurrent", "LSTM", "GRU", "a loss of one's own"}


@pytest.mark.parametrize("make", [gauss_newton, empirical_fisher])
@pytest.mark.parametrize("case", sorted(CURVATURE_CASES.keys() - WITHOUT_RULES))
def test_rules_and_double_backward_give_one_product(case: str, make: Any) -> None:
    operator = make(CURVATURE_CASES[case](), check="none")
    parameters = list(operator.parameters.values())
    vector = torch.linspace(-1, 1, operator.shape[0], dtype=torch.float64)
    with exact_derivatives(operator.device), operator.prepared():
        for inputs, targets in operator.problem.batches():
            share = operator.share(inputs, targets)
            graphs = RuledJacobianGraph(*share, parameters), JacobianGraph(*share, parameters)
            torch.testing.assert_close(graphs[0].gradient(), graphs[1].gradient())
            for _ in range(2):
                products = [torch.zeros_like(vector) for _ in graphs]
                for graph, product in zip(graphs, products, strict=True):
                    graph.add_product(vector, product)
                torch.testing.assert_close(*products)


class Free(nn.Module):
    """Outputs that are a parameter themselves, or a part of one."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table, self.other = nn.Parameter(torch.randn(rows, 3)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.table if len(self.table) == len(x) else self.table[: len(x)]


@pytest.mark.parametrize(
    ("make", "reference"), [(gauss_newton, dense_gauss_newton), (empirical_fisher, dense_fisher)]
)
@pytest.mark.parametrize("loss", ["cross_entropy", "half_squared_error"])
@pytest.mark.parametrize("rows", [5, 6])
def test_outputs_that_are_a_parameter(make: Any, reference: Any, loss: str, rows: int) -> None:
    torch.manual_seed(0)
    targets = torch.tensor([0, 1, 2, 1, 0]) if loss == "cross_entropy" else torch.randn(5, 3)
    problem = Problem(Free(rows).double(), (torch.randn(5, 2), targets), loss)
    operator = make(problem, check="full")
    assert operator.engine == "rules"
    assert_same_matrix(operator.dense(), reference(problem))
    assert make(problem, parameters="other").dense().abs().max() == 0


@pytest.mark.parametrize("make", [gauss_newton, empirical_fisher])
def test_inputs_that_require_gradients_and_parameters_that_are_not_used(make: Any) -> None:
    problem = CURVATURE_CASES["unused parameter"]()
    problem.data[0][0].requires_grad_(True)
    blocks = make(problem).blocks()
    assert blocks["unused"].dense().abs().max() == 0
    assert blocks["used"].dense().abs().max() > 0


def test_the_engine_says_what_it_is_and_why() -> None:
    ruled = gauss_newton(CURVATURE_CASES["transformer encoder"]())
    assert (ruled.engine, ruled.engine_reason) == ("rules", "every node has a rule")


@pytest.mark.parametrize("make", [gauss_newton, empirical_fisher])
def test_a_node_without_a_rule_goes_to_double_backward(make: Any) -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.log_ndtr(torch.sinc(x))

    torch.manual_seed(0)
    problem = classes(nn.Sequential(nn.Linear(4, 5), Turned(), nn.Linear(5, 3)), 4, sizes=(9, 3))
    operator = make(problem)
    assert operator.engine == "double backward"
    assert "no rule" in operator.engine_reason
    expected = dense_gauss_newton(problem) if make is gauss_newton else dense_fisher(problem)
    assert_same_matrix(operator.dense(), expected)


def test_rules_that_disagree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RuledJacobianGraph.add_product

    def wrong(self: Any, vector: Tensor, total: Tensor, *, last: bool = False) -> None:
        right(self, 1.1 * vector, total, last=last)

    monkeypatch.setattr(RuledJacobianGraph, "add_product", wrong)
    problem = classes(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), 4, sizes=(12,))
    operator = gauss_newton(problem)
    assert operator.engine == "double backward"
    assert "differs from one by double backward by 0.1" in operator.engine_reason
    assert_same_matrix(operator.dense(), dense_gauss_newton(problem))
