"""Off-diagonal blocks against those of the dense matrix."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from curvature_cases import CURVATURE_CASES
from torch import nn

from gradscope.curvature import empirical_fisher, extreme_eigenvalues, gauss_newton, hessian
from tests.curvature.references import assert_same_matrix
from tests.curvature.shortcut_points import residual_correlation, zero_point
from tests.curvature.test_blocks import entries


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
def test_the_coupling_is_the_dense_block_and_its_transpose(make: Callable[..., Any]) -> None:
    operator = make(CURVATURE_CASES["residual"](), weight_decay=0.5)
    coupling = operator.coupling("2", "0.branch.0")
    a = entries(operator, ["2.weight", "2.bias"])
    b = entries(operator, ["0.branch.0.weight", "0.branch.0.bias"])
    block = operator.dense()[a][:, b]
    expected = torch.zeros(len(a) + len(b), len(a) + len(b), dtype=torch.float64)
    expected[: len(a), len(a) :] = block
    expected[len(a) :, : len(a)] = block.T
    assert coupling.sizes == (len(a), len(b))
    assert_same_matrix(coupling.dense(), expected)


def test_its_largest_eigenvalue_is_the_norm_of_the_block() -> None:
    operator = hessian(CURVATURE_CASES["residual"]())
    coupling = operator.coupling("0:0", "1:0")
    size = coupling.sizes[0]
    norm = torch.linalg.matrix_norm(coupling.dense()[:size, size:], ord=2).item()
    found = extreme_eigenvalues(coupling, 1, ends="largest", tolerance=1e-6)
    assert found["value"].iloc[0] == pytest.approx(norm, rel=1e-6)


def test_groups_are_blocks_selections_or_groups_of_a_mapping() -> None:
    operator = hessian(CURVATURE_CASES["residual after a layer"](), check="none")
    assert operator.coupling("0", "stage 0").sizes == (25, 30)
    assert operator.coupling(["0.weight"], "3.bias").sizes == (20, 3)
    ends = {"ends": ["0", "3"], "middle": "1"}
    assert operator.coupling("ends", "middle", by=ends).sizes == (43, 30)
    with pytest.raises(ValueError, match=r"There are: 0, 1:0, 3"):
        operator.coupling("0", "2:0")


def test_groups_that_overlap_are_refused() -> None:
    operator = hessian(CURVATURE_CASES["residual"](), check="none")
    with pytest.raises(ValueError, match=r"2\.weight, 2\.bias is in both"):
        operator.coupling("2", nn.Linear)


def test_at_the_zero_point_all_curvature_couples_the_layers_of_one_block() -> None:
    problem = zero_point()
    operator = hessian(problem)
    singular = torch.linalg.svdvals(residual_correlation(problem))
    within = operator.coupling("0.branch.0", "0.branch.1").dense()
    assert torch.linalg.eigvalsh(within).max().item() == pytest.approx(singular[0].item(), rel=1e-12)
    assert operator.coupling("0:0", "1:0").dense().abs().max() == 0


def test_a_coupling_is_preconditioned_as_its_operator_is() -> None:
    problem = CURVATURE_CASES["plain"]()
    weights = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    operator = hessian(problem, precondition=weights)
    coupling = operator.coupling("0", "4")
    a, b = entries(operator, ["0.weight", "0.bias"]), entries(operator, ["4.weight", "4.bias"])
    block = hessian(problem).dense()[a][:, b] / (weights[a, None] * weights[b]).sqrt()
    assert_same_matrix(coupling.dense()[: len(a), len(a) :], block)
