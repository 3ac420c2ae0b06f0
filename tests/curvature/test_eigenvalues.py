"""Lanczos and the extreme eigenvalues against dense diagonalisation, closed forms and SciPy."""

import copy

import numpy
import pytest
import torch
from cases import CASES
from scipy.sparse.linalg import eigsh
from shortcut_nets import zero_point
from symmetric_matrices import trained_like, with_spectrum
from torch import Tensor

from gradscope.curvature import MatrixOperator, Operator, extreme_eigenvalues, hessian
from gradscope.problem import Problem


@pytest.mark.parametrize("case", CASES)
def test_extreme_eigenvalues_are_those_of_the_dense_hessian(case: str) -> None:
    operator = hessian(CASES[case]())
    exact = torch.linalg.eigvalsh(operator.dense()).numpy()
    frame = extreme_eigenvalues(operator, 3, tolerance=1e-9)
    assert frame["converged"].all()
    assert list(frame["rank"]) == [1, 2, 3, -1, -2, -3]
    expected = [*exact[::-1][:3], *exact[:3]]
    numpy.testing.assert_allclose(frame["value"], expected, atol=1e-9 * abs(exact).max())


def test_scipy_finds_the_same_through_the_same_operator() -> None:
    operator = hessian(CASES["residual"]())
    ours = extreme_eigenvalues(operator, 4, ends="largest", tolerance=1e-10)["value"]
    theirs = eigsh(operator.to_scipy(), k=4, which="LA", return_eigenvectors=False)
    numpy.testing.assert_allclose(ours, sorted(theirs, reverse=True), rtol=1e-8)
    vectors = numpy.random.default_rng(0).standard_normal((operator.shape[0], 2))
    numpy.testing.assert_allclose(
        operator.to_scipy() @ vectors, operator.dense().numpy() @ vectors, atol=1e-12
    )
    numpy.testing.assert_allclose(
        operator.to_scipy().T @ vectors, operator.dense().numpy() @ vectors, atol=1e-12
    )


@pytest.mark.parametrize(
    ("width", "inner", "blocks"), [(3, 2, 1), (4, 3, 2), (3, 5, 3), (5, 2, 2), (4, 6, 1)]
)
def test_two_shortcut_zero_point_has_plus_and_minus_singular_values(
    width: int, inner: int, blocks: int
) -> None:
    problem, singular = zero_point(width, inner, blocks)
    exact = torch.linalg.eigvalsh(hessian(problem).dense())
    copies = singular.repeat_interleave(inner * blocks)
    expected = torch.cat([copies, -copies]).sort().values
    assert (exact - expected).abs().max() < 1e-13 * singular[0]


@pytest.mark.parametrize("seed", range(3))
def test_restarts_find_every_copy_of_a_repeated_eigenvalue(seed: int) -> None:
    problem, singular = zero_point(width=3, inner=2, blocks=2)
    frame = extreme_eigenvalues(hessian(problem), 5, tolerance=1e-8, seed=seed)
    expected = singular.repeat_interleave(4)[:5].numpy()
    assert frame["converged"].all()
    numpy.testing.assert_allclose(frame["value"][:5], expected, rtol=1e-8)
    numpy.testing.assert_allclose(frame["value"][5:], -expected, rtol=1e-8)


def test_restarts_find_every_copy_in_single_precision() -> None:
    problem, singular = zero_point(width=3, inner=2, blocks=2)
    single = Problem(copy.deepcopy(problem.model).float(), problem.data, "half_squared_error")
    frame = extreme_eigenvalues(hessian(single), 5, tolerance=1e-3)
    assert frame["converged"].all()
    numpy.testing.assert_allclose(frame["value"][:5], singular.repeat_interleave(4)[:5], rtol=1e-5)


def test_a_copy_not_yet_looked_for_is_not_called_converged() -> None:
    problem, _ = zero_point(width=3, inner=2, blocks=2)
    frame = extreme_eigenvalues(hessian(problem), 3, ends="largest", max_products=7)
    assert frame["converged"].iloc[0]
    assert not frame["converged"].iloc[2]
    assert "repeated" in frame["reason"].iloc[2]


@pytest.mark.parametrize("layers", [3, 4])
def test_deeper_shortcuts_have_an_exactly_zero_hessian_at_zero(layers: int) -> None:
    problem, _ = zero_point(width=3, inner=3, blocks=2, layers=layers)
    operator = hessian(problem)
    assert operator.dense().abs().max() == 0
    frame = extreme_eigenvalues(operator, 4)
    assert (frame["value"] == 0).all()
    assert frame["converged"].all()


def test_converged_values_are_those_of_their_rank_to_the_tolerance() -> None:
    """Also the small negatives buried beside the bulk at zero, where every interval holds some eigenvalue."""
    operator = with_spectrum(trained_like())
    exact = torch.linalg.eigvalsh(operator.matrix).numpy()
    for seed in range(10):
        frame = extreme_eigenvalues(operator, 5, seed=seed)
        assert frame["converged"].all()
        expected = numpy.array([*exact[::-1][:5], *exact[:5]])
        assert (abs(frame["value"] - expected) <= 1e-3).all()
        covered = (frame["low"] <= expected) & (expected <= frame["high"])
        assert covered[frame["rank"] >= -1].all()
        for low, high in zip(frame["low"], frame["high"], strict=True):
            assert ((low <= exact) & (exact <= high)).any()


def test_what_has_not_converged_says_so() -> None:
    frame = extreme_eigenvalues(with_spectrum(trained_like()), 5, max_products=6)
    assert not frame["converged"].any()
    assert set(frame["status"]) == {"unconverged"}
    assert frame["reason"].str.contains(r"after 6 products \(max_products\)").all()
    assert (frame["products"] == 6).all()


def test_values_not_reached_are_reported_missing() -> None:
    frame = extreme_eigenvalues(with_spectrum(trained_like()), 5, ends="largest", max_products=3)
    assert list(frame["rank"]) == [1, 2, 3, 4, 5]
    assert frame["value"].isna().tolist() == [False, False, False, True, True]
    assert frame["reason"].str.contains("max_products").all()
    assert set(frame["unit"]) == {"loss per squared parameter"}


def test_no_inner_value_converges_before_an_outer_one() -> None:
    for products in range(2, 60, 3):
        frame = extreme_eigenvalues(with_spectrum(trained_like()), 5, max_products=products)
        for rows in (frame[frame["rank"] > 0], frame[frame["rank"] < 0]):
            assert rows["converged"].is_monotonic_decreasing


def test_all_eigenvalues_of_a_small_operator() -> None:
    frame = extreme_eigenvalues(MatrixOperator(torch.diag(torch.tensor([3.0, -1.0]))), 5)
    assert list(frame["rank"]) == [1, 2, -1, -2]
    numpy.testing.assert_allclose(frame["value"], [3, -1, -1, 3], atol=1e-6)
    assert frame["converged"].all()


def test_single_precision_agrees_with_double() -> None:
    problem = CASES["convolution"]()
    single = Problem(copy.deepcopy(problem.model).float(), problem.data)
    ours = extreme_eigenvalues(hessian(single), 5, tolerance=1e-5)
    exact = extreme_eigenvalues(hessian(problem), 5, tolerance=1e-10)
    assert ours["converged"].all()
    numpy.testing.assert_allclose(ours["value"], exact["value"], atol=1e-5 * exact["value"].max())


def test_largest_eigenvalue_in_fifteen_products() -> None:
    """The sheet's trained net: lambda_max to 1e-3 within 15 products."""
    operator = MatrixOperator(torch.diag(trained_like(2410)))
    frame = extreme_eigenvalues(operator, 1, ends="largest")
    assert frame["products"].iloc[0] <= 15
    assert abs(frame["value"].iloc[0] - 1) < 1e-3


def test_weight_decay_shifts_the_eigenvalues() -> None:
    problem = CASES["plain"]()
    plain = extreme_eigenvalues(hessian(problem), 3, tolerance=1e-10)["value"]
    shifted = extreme_eigenvalues(hessian(problem, weight_decay=0.25), 3, tolerance=1e-10)["value"]
    numpy.testing.assert_allclose(shifted, plain + 0.25, atol=1e-9)


def test_bad_requests_say_what_to_do() -> None:
    operator = MatrixOperator(torch.eye(3))
    for options in ({"k": 0}, {"ends": "top"}, {"tolerance": 0.0}, {"max_products": 0}):
        with pytest.raises(ValueError, match="need k >= 1"):
            extreme_eigenvalues(operator, **options)
    operator.symmetric = False
    with pytest.raises(ValueError, match="symmetric operator"):
        extreme_eigenvalues(operator)
    with pytest.raises(ValueError, match="square matrix"):
        MatrixOperator(torch.ones(2, 3))
    with pytest.raises(ValueError, match="symmetric matrix"):
        MatrixOperator(torch.triu(torch.ones(3, 3)))
    with pytest.raises(FloatingPointError, match="not finite"):
        extreme_eigenvalues(NotFinite())


class NotFinite(Operator):
    def __init__(self) -> None:
        super().__init__(3, torch.float64, torch.device("cpu"))

    def _apply(self, rows: Tensor) -> Tensor:
        return rows * float("nan")
