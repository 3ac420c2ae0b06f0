"""No matrix of NaN is handed out without a word."""

from typing import Any

import pytest
import torch
from curvature_cases import CURVATURE_CASES

from gradscope.curvature import empirical_fisher, gauss_newton, hessian
from gradscope.curvature.operators import MatrixOperator


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])
def test_dense_says_what_is_not_finite_and_products_are_raw(make: Any) -> None:
    problem = CURVATURE_CASES["plain"]()
    operator = make(problem)
    whole, block, pair = operator, operator.blocks()["0"], operator.coupling("0", "2")
    assert operator.dense().isfinite().all()
    with torch.no_grad():
        problem.model[0].weight[0, 0] = torch.nan
    for part in (whole, block, pair, make(problem, check="none")):
        with pytest.raises(
            FloatingPointError, match=r"parameters 0\.weight are not finite.*training diverge"
        ):
            part.dense()
        assert part.matvec(torch.ones(part.shape[0])).isnan().any()
        assert part.quadratic(torch.ones(part.shape[0])).isnan()


def test_a_matrix_at_hand() -> None:
    matrix = torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]])
    with pytest.raises(FloatingPointError, match=r"MatrixOperator\(shape=\[2, 2\].* are not"):
        MatrixOperator(matrix).dense()
