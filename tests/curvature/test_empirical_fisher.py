"""The empirical Fisher operator against the sum of outer products of examples' gradients."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from curvature_cases import CURVATURE_CASES

import gradscope as gs
from gradscope.curvature import empirical_fisher
from gradscope.problem import Problem
from tests.curvature.references import assert_same_matrix, dense_fisher
from tests.curvature.shortcut_points import zero_point


@pytest.mark.parametrize("case", CURVATURE_CASES)
def test_products_match_the_dense_matrix(case: str) -> None:
    """Batch normalisation in train mode included: an example's loss is differentiated through its batch."""
    problem = CURVATURE_CASES[case]()
    expected = dense_fisher(problem)
    before = snapshot(problem.model)
    with empirical_fisher(problem) as operator:
        assert operator.retained
        assert_same_matrix(operator.dense(), expected)
    with empirical_fisher(problem, budget_bytes=0, check="none") as operator:
        vectors = torch.eye(len(expected), 2, dtype=torch.float64) + 0.5
        torch.testing.assert_close(operator.matmat(vectors), expected @ vectors)
        assert operator.retained is False
    assert_as_found(problem.model, before)


@pytest.mark.parametrize("case", ["plain", "batch norm train", "instance norm", "LSTM", "PReLU", "Huber"])
def test_products_match_differences_of_the_losses(case: str) -> None:
    empirical_fisher(CURVATURE_CASES[case](), check="full")


def test_its_trace_is_the_mean_squared_length_of_the_gradients_and_its_rank_their_number() -> None:
    problem = CURVATURE_CASES["short last batch"]()
    matrix = gs.empirical_fisher(problem).dense()
    squares = 0.0
    for inputs, targets in problem.batches():
        for one in range(len(inputs)):
            loss = problem.losses(inputs[one : one + 1], targets[one : one + 1]).sum()
            slopes = torch.autograd.grad(loss, list(problem.parameters.values()))
            squares += sum(slope.square().sum().item() for slope in slopes)
    assert matrix.trace().item() == pytest.approx(squares / 9, rel=1e-12)
    assert torch.linalg.matrix_rank(matrix, hermitian=True) == 9


def test_one_example_gives_the_outer_product_of_its_gradient() -> None:
    problem = CURVATURE_CASES["plain"]()
    ((inputs, targets),) = problem.batches()
    single = Problem(problem.model, (inputs[:1], targets[:1]))
    slopes = torch.autograd.grad(single.value(inputs[:1], targets[:1]), list(single.parameters.values()))
    gradient = torch.cat([slope.flatten() for slope in slopes])
    assert_same_matrix(empirical_fisher(single).dense(), torch.outer(gradient, gradient))


def test_it_is_zero_at_the_zero_point_of_two_layer_shortcuts() -> None:
    assert empirical_fisher(zero_point()).dense().abs().max() == 0


def test_weight_decay_and_sums_over_examples() -> None:
    problem = CURVATURE_CASES["sum over examples"]()
    expected = dense_fisher(problem)
    shifted = empirical_fisher(problem, weight_decay=0.3).dense()
    assert_same_matrix(shifted, expected + 0.3 * torch.eye(len(expected), dtype=torch.float64))
