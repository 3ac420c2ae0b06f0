"""Ritz values against products: bounds hold, values close in on the dense spectrum."""

import numpy
import pytest
import torch
from cases import CASES
from dense_curvature import spectrum

from gradscope.curvature.hessian import hessian
from gradscope.curvature.operators import MatrixOperator
from gradscope.studies.eigenvalue_convergence import eigenvalue_convergence


def random_matrix(size: int) -> torch.Tensor:
    draw = torch.randn(size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (draw + draw.T) / 2


def test_every_bound_holds_an_eigenvalue():
    matrix = random_matrix(40)
    exact = torch.linalg.eigvalsh(matrix).numpy()
    frame = eigenvalue_convergence(MatrixOperator(matrix), 3, max_products=30)
    assert set(frame["rank"]) == {1, 2, 3, -1, -2, -3}
    assert list(frame[frame["rank"] == 1]["products"]) == list(range(1, 31))
    nearest = numpy.abs(frame["value"].to_numpy()[:, None] - exact).min(axis=1)
    assert (nearest <= (frame["high"] - frame["value"]) * (1 + 1e-9) + 1e-12).all()


def test_ritz_values_grow_towards_the_ends_and_arrive():
    problem = CASES["residual"]()
    exact = spectrum(problem).numpy()
    operator = hessian(problem)
    frame = eigenvalue_convergence(operator, 2, max_products=60)
    assert operator.products == frame["products"].max()
    for rank in (1, 2, -1, -2):
        curve = frame[frame["rank"] == rank].sort_values("products")
        # By Cauchy's interlacing, a Ritz value of a rank never moves inwards.
        steps = numpy.sign(rank) * numpy.diff(curve["value"])
        assert steps.min() > -1e-12
        last = curve.iloc[-1]
        assert last["status"] == "ok"
        assert last["value"] == pytest.approx(exact[rank - 1 if rank > 0 else rank], rel=1e-6)
    first = frame[frame["products"] == 1]
    assert set(first["status"]) == {"unconverged"}
    assert first["reason"].str.contains("residual").all()


def test_a_run_that_spans_the_space_is_exact():
    matrix = random_matrix(5)
    frame = eigenvalue_convergence(MatrixOperator(matrix), 5, ends="largest")
    last = frame[frame["products"] == frame["products"].max()]
    assert set(last["status"]) == {"ok"}
    numpy.testing.assert_allclose(last["value"], torch.linalg.eigvalsh(matrix).flip(0), rtol=1e-10)


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"max_products": 0}, {"tolerance": 0.0}, {"ends": "middle"}], ids=str
)
def test_bad_options_are_told(options):
    with pytest.raises(ValueError, match="k >= 1, max_products >= 1, tolerance > 0 and ends one of"):
        eigenvalue_convergence(MatrixOperator(torch.eye(3)), **options)
