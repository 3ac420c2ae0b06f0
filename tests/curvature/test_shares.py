"""Counts of eigenvalues and their brackets against the spectral measure of each probe."""

import numpy
import pytest
import torch
from curvature_matrices import MATRICES

from gradscope.curvature import MatrixOperator
from gradscope.curvature.quadrature import recurrences
from gradscope.curvature.shares import share_below


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("steps", [3, 10, 25])
def test_bounds_hold_each_probes_own_share(name: str, steps: int) -> None:
    """The measure of probe z has weight (u_i^T z)^2 / P at eigenvalue i; the quadrature knows 2 m moments."""
    values, vectors = torch.linalg.eigh(MATRICES[name])
    operator = MatrixOperator(MATRICES[name])
    starts: list[torch.Tensor] = []
    plain = operator.matmat

    def overheard(matrix: torch.Tensor) -> torch.Tensor:
        starts.append(matrix.clone())
        return plain(matrix)

    operator.matmat = overheard  # type: ignore[method-assign]
    runs, _ = recurrences(operator, 4, steps, seed=2)
    weights = (vectors.T @ starts[0]).square() / len(values)
    span = float(values[-1] - values[0])
    for probe, run in enumerate(runs):
        for place in numpy.linspace(float(values[0]) - 0.1 * span, float(values[-1]) + 0.123 * span, 23):
            true = float(weights[values < place, probe].sum())
            value, low, high = share_below(run, float(place))
            assert low - 1e-7 <= true <= high + 1e-7
            assert low <= value <= high + 1e-12


def test_bounds_meet_where_the_space_is_exhausted() -> None:
    operator = MatrixOperator(torch.diag(torch.tensor([-2.0, -1.0, 3.0, 3.0], dtype=torch.float64)))
    runs, _ = recurrences(operator, 3, 4, seed=0)
    for run in runs:
        assert run.closed
        assert share_below(run, -1.5) == pytest.approx((0.25, 0.25, 0.25), abs=1e-12)
        assert share_below(run, 0.0) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)
