"""The Gauss-Newton operator against J^T H_l J, formed row by row."""

from typing import Any

import pytest
import torch
from as_found import assert_as_found, snapshot
from cases import classes
from curvature_cases import CURVATURE_CASES, fitted, largest
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils.flop_counter import FlopCounterMode

import gradscope as gs
from gradscope.curvature import empirical_fisher, gauss_newton, hessian
from gradscope.problem import Problem
from tests.curvature.references import assert_same_matrix, dense_gauss_newton
from tests.curvature.shortcut_points import zero_point


@pytest.mark.parametrize("case", CURVATURE_CASES)
def test_products_match_the_dense_matrix(case: str) -> None:
    problem = CURVATURE_CASES[case]()
    expected = dense_gauss_newton(problem)
    before = snapshot(problem.model)
    with gauss_newton(problem) as operator:
        assert operator.retained
        assert_same_matrix(operator.dense(), expected)
    with gauss_newton(problem, budget_bytes=0, check="none") as operator:
        vectors = torch.eye(len(expected), 2, dtype=torch.float64) + 0.5
        torch.testing.assert_close(operator.matmat(vectors), expected @ vectors)
        assert operator.retained is False
    assert_as_found(problem.model, before)


@pytest.mark.parametrize(
    "case", ["plain", "batch norm train", "group norm", "GRU", "transformer encoder", "Huber"]
)
def test_products_match_differences_of_the_outputs(case: str) -> None:
    gauss_newton(CURVATURE_CASES[case](), check="full")


def test_a_network_linear_in_its_parameters_has_the_gauss_newton_matrix_for_hessian() -> None:
    problem = Problem(nn.Linear(4, 3).double(), (torch.randn(6, 4), torch.randint(0, 3, (6,))))
    assert_same_matrix(gauss_newton(problem).dense(), hessian(problem).dense())


def test_it_is_the_fisher_matrix_of_cross_entropy() -> None:
    """Targets drawn from the network's own predictions, all of them, each with its probability."""
    problem = CURVATURE_CASES["plain"]()
    ((inputs, _),) = problem.batches()
    parameters = list(problem.parameters.values())
    outputs = problem.outputs(inputs)
    total = torch.zeros(64, 64, dtype=torch.float64)
    for row in outputs:
        for drawn in range(3):
            loss = nn.functional.cross_entropy(row[None], torch.tensor([drawn]))
            slope = torch.cat([g.flatten() for g in grad(loss, parameters, retain_graph=True)])
            total += row.softmax(dim=0)[drawn].detach() * torch.outer(slope, slope) / len(outputs)
    assert_same_matrix(gauss_newton(problem).dense(), total)


def test_closed_forms_are_what_differentiating_the_loss_twice_gives() -> None:
    closed = fitted("cross_entropy", largest)
    twice = fitted(nn.CrossEntropyLoss(), largest)
    twice.model = closed.model
    assert_same_matrix(gauss_newton(closed).dense(), gauss_newton(twice).dense())


@pytest.mark.parametrize(
    "targets",
    [torch.tensor([0, 1, -100, 3, -100, 2]), torch.linspace(0, 2, 24, dtype=torch.float64).view(6, 4) % 0.7],
    ids=["ignored", "sums other than 1"],
)
def test_examples_weigh_what_their_targets_sum_to(targets: Tensor) -> None:
    """The loss is m log sum exp z less what is linear in the outputs, with m the sum of an example's targets."""
    torch.manual_seed(0)
    problem = Problem(nn.Linear(3, 4).double(), (torch.randn(6, 3), targets))
    operator = gauss_newton(problem, check="full")
    assert_same_matrix(operator.dense(), dense_gauss_newton(problem))
    assert_same_matrix(operator.dense(), hessian(problem).dense())


def test_a_wrong_closed_form_is_found_by_the_full_check(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CURVATURE_CASES["plain"]()
    forms = [(problem.loss, lambda outputs, targets, weight: lambda change: 2 * weight * change)]
    monkeypatch.setattr("gradscope.curvature.gauss_newton_operator._CLOSED_FORMS", forms)
    with pytest.raises(ValueError, match="differs from central differences"):
        gauss_newton(problem, check="full")


def test_it_is_zero_at_the_zero_point_of_two_layer_shortcuts_where_the_hessian_is_not() -> None:
    problem = zero_point()
    assert gauss_newton(problem).dense().abs().max() == 0
    assert hessian(problem).dense().abs().max() > 0.1


def test_weight_decay_and_sums_over_examples() -> None:
    problem = CURVATURE_CASES["sum over examples"]()
    expected = dense_gauss_newton(problem)
    shifted = gauss_newton(problem, weight_decay=0.3).dense()
    assert_same_matrix(shifted, expected + 0.3 * torch.eye(len(expected), dtype=torch.float64))


def test_a_loss_of_none_of_the_parameters_has_a_zero_matrix() -> None:
    problem = CURVATURE_CASES["unused parameter"]()
    assert gauss_newton(problem, parameters="unused").dense().abs().max() == 0


def test_it_is_right_with_weight_norm_where_the_hessian_is_not() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    net = nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3)).double()
    problem = Problem(net, (torch.randn(6, 4), torch.randint(0, 3, (6,))))
    assert_same_matrix(gauss_newton(problem, check="full").dense(), dense_gauss_newton(problem))


def test_a_product_on_kept_graphs_costs_four_thirds_of_a_gradient() -> None:
    """The limit of the reference sheet, 4.1: two passes over the weights for J v, two for J^T w."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), *[nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)], nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(8 * 36, 3))
    problem = Problem(net, (torch.randn(4, 3, 6, 6), torch.randint(0, 3, (4,))))
    operator = gauss_newton(problem)
    ((inputs, targets),) = problem.batches()
    with FlopCounterMode(display=False) as product:
        operator.matvec(torch.ones(operator.shape[0]))
    with FlopCounterMode(display=False) as gradient:
        grad(problem.value(inputs, targets), list(problem.parameters.values()))
    assert 1.2 < product.get_total_flops() / gradient.get_total_flops() < 1.45


@pytest.mark.parametrize("make", [gauss_newton, empirical_fisher])
def test_the_model_is_left_as_found_when_interrupted(make: Any) -> None:
    class Interrupted(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 9:
                raise KeyboardInterrupt
            return x

    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), Interrupted(), nn.Linear(5, 3))
    problem = classes(net, 4, sizes=(4, 3), batch_norm="train")
    before = snapshot(net)
    operator = make(problem, budget_bytes=0)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(9):
            operator.matvec(torch.ones(operator.shape[0]))
    assert_as_found(net, before)


def test_the_public_name_is_the_operator() -> None:
    problem = CURVATURE_CASES["plain"]()
    operator = gs.gauss_newton((problem.model, problem.data))
    assert operator.conditions["operator"] == "Gauss-Newton matrix"
    assert torch.linalg.eigvalsh(operator.dense()).min() > -1e-14
