"""Counts of eigenvalues and their brackets against the spectral measure of each probe."""

import numpy
import pytest
import torch
from curvature_matrices import MATRICES, rotated

import gradscope as gs
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


def shares(matrix: torch.Tensor, **options: float) -> dict[str, tuple[float, float, float, str]]:
    frame = gs.spectral_density(MatrixOperator(matrix), **options)
    rows = frame[frame["quantity"].isin(["negative_share", "share_above"])].to_dict("records")
    return {row["quantity"]: (row["value"], row["low"], row["high"], row["status"]) for row in rows}


def test_zero_is_not_beyond_a_threshold_of_zero() -> None:
    """The zero operator has no range, so that its resolution is 0."""
    nothing = (0, 0, 0, "ok")
    assert shares(torch.zeros(30, 30)) == {"negative_share": nothing, "share_above": nothing}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_eigenvalue_at_the_threshold_is_not_beyond_it(dtype: torch.dtype, sign: float) -> None:
    """Of eigenvalues 1 (twice), -1 and 3, only 3 is: to rounding, that is, of nodes that are 1 +- 1e-7."""
    matrix = sign * rotated(torch.tensor([1.0, 1.0, -1.0, 3.0]), seed=2).to(dtype)
    found = shares(matrix, threshold=1.0)
    above, negative = found["share_above"], found["negative_share"]
    assert above[0] == pytest.approx(0.25, abs=0.2)  # over ten probes
    assert above[1] <= 0.25 <= above[2]
    assert (negative[0] == 0) == (sign > 0)


def test_shares_stay_within_zero_and_one() -> None:
    for matrix in MATRICES.values():
        for value, low, high, _ in shares(matrix, steps=60, probes=3).values():
            assert 0 <= low <= high <= 1
            assert 0 <= value <= 1
