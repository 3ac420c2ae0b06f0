"""Any function that takes an operator can be watched: it tells of each product it makes."""

import pytest
import torch

import gradscope as gs
from gradscope.curvature.operators import MatrixOperator


@pytest.mark.parametrize(
    "measure",
    [
        gs.trace,
        gs.condition_numbers,
        lambda operator: gs.spectral_density(operator, probes=2, steps=5),
        lambda operator: gs.extreme_eigenvalues(operator, 2),
        lambda operator: operator.dense(),
    ],
)
def test_products_told_are_products_made(measure):
    operator = MatrixOperator(torch.diag(torch.linspace(-1, 3, 30, dtype=torch.float64)))
    told: list[int] = []
    operator.watch = told.append
    measure(operator)
    assert sum(told) == operator.products > 0
