"""D^(-1/2) (A + w I) D^(-1/2) against the dense matrix, and Adam's D against its own steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from curvature_cases import CURVATURE_CASES
from torch import Tensor

from gradscope.curvature import adam_diagonal, empirical_fisher, extreme_eigenvalues, gauss_newton, hessian
from gradscope.problem import Problem
from tests.curvature.references import assert_same_matrix, dense_hessian


def weights(size: int) -> Tensor:
    return torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) + 0.5


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
def test_the_matrix_is_divided_by_square_roots_on_both_sides(make: Callable[..., Any]) -> None:
    problem = CURVATURE_CASES["short last batch"]()
    plain, diagonal = make(problem).dense(), weights(64)
    expected = (plain + 0.2 * torch.eye(64, dtype=torch.float64)) / (diagonal[:, None] * diagonal).sqrt()
    operator = make(problem, weight_decay=0.2, precondition=diagonal)
    assert_same_matrix(operator.dense(), expected)
    torch.testing.assert_close(operator.diagonal, diagonal, rtol=0, atol=0)
    assert operator.conditions["precondition"] == "diagonal"
    assert operator.conditions["weight_decay"] == "0.2"


def test_a_diagonal_by_name_of_tensors_and_numbers() -> None:
    problem = CURVATURE_CASES["plain"]()
    named: dict[str, Any] = {name: torch.full_like(p, 2.0) for name, p in problem.parameters.items()}
    named |= {"0.weight": 4.0, "not of this operator": 1.0}
    diagonal = torch.full((64,), 2.0, dtype=torch.float64)
    diagonal[:20] = 4
    expected = dense_hessian(problem) / (diagonal[:, None] * diagonal).sqrt()
    assert_same_matrix(hessian(problem, precondition=named).dense(), expected)


def test_parts_keep_their_part_of_the_diagonal() -> None:
    problem = CURVATURE_CASES["residual"]()
    operator = hessian(problem, precondition=weights(77), weight_decay=0.1)
    whole = operator.dense()
    for block in operator.blocks("block").values():
        places = torch.cat([torch.arange(77)[operator.slices[name]] for name in block.parameters])
        assert_same_matrix(block.dense(), whole[places][:, places])


def test_the_spectrum_is_that_of_the_preconditioned_step() -> None:
    """D^(-1) H, by which a step of the optimiser changes parameters, has the same eigenvalues."""
    problem, diagonal = CURVATURE_CASES["plain"](), weights(64)
    step = dense_hessian(problem) / diagonal[:, None]
    largest = torch.linalg.eigvals(step).real.max().item()
    found = extreme_eigenvalues(hessian(problem, precondition=diagonal), 1, ends="largest", tolerance=1e-8)
    assert found["value"].iloc[0] == pytest.approx(largest, rel=1e-8)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam])
def test_adam_divides_its_momentum_by_this_diagonal(kind: Any) -> None:
    """After the first step the corrected moments are g and g^2, so that D = |g| + eps."""
    problem = CURVATURE_CASES["plain"]()
    optimiser = kind(problem.model.parameters(), lr=0.1, eps=1e-3)
    ((inputs, targets),) = problem.batches()
    problem.value(inputs, targets).backward()
    slopes = {name: parameter.grad.clone() for name, parameter in problem.parameters.items()}
    optimiser.step()
    found = adam_diagonal(optimiser, problem)
    assert list(found) == list(problem.parameters)
    for name, slope in slopes.items():
        torch.testing.assert_close(found[name], slope.abs() + 1e-3, rtol=1e-6, atol=0)
    assert hessian(problem, precondition=found).dense().isfinite().all()


def test_adams_own_step_is_momentum_over_the_diagonal() -> None:
    problem = CURVATURE_CASES["plain"]()
    optimiser = torch.optim.Adam(problem.model.parameters(), lr=0.1, amsgrad=False)
    ((inputs, targets),) = problem.batches()
    for _ in range(5):
        before = {name: p.detach().clone() for name, p in problem.parameters.items()}
        optimiser.zero_grad()
        problem.value(inputs, targets).backward()
        optimiser.step()
    diagonal = adam_diagonal(optimiser, dict(problem.parameters))
    for name, parameter in problem.parameters.items():
        momentum = optimiser.state[parameter]["exp_avg"] / (1 - 0.9**5)
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * momentum / diagonal[name])


def test_what_does_not_fit_is_refused() -> None:
    problem = CURVATURE_CASES["plain"]()
    for given, message in (
        (torch.ones(3), r"\[64\], got \[3\]"),
        (-torch.ones(64), "positive diagonal"),
        (torch.full((64,), torch.nan), "positive diagonal"),
        ({"0.weight": 1.0}, r"no entry for 0\.bias, 2\.weight"),
        ({name: torch.ones(2, 2) for name in problem.parameters}, r"shape \[2, 2\], the parameter \[5, 4\]"),
        (2.0, "adam_diagonal"),
    ):
        with pytest.raises(ValueError, match=message):
            hessian(problem, precondition=given)
    plain = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"SGD holds no second moments.*after its first step"):
        adam_diagonal(plain, problem.model)
    assert isinstance(problem, Problem)
