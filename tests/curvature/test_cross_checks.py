"""Eigenvalues of a table of matrices, and of networks, as dense solvers, ARPACK and LOBPCG find them."""

import numpy
import pytest
import torch
from cases import CASES
from scipy.sparse.linalg import eigsh, lobpcg
from symmetric_matrices import HIDING, SPECTRA, Diagonal, repeated, trained_like, with_spectrum

from gradscope.curvature import MatrixOperator, extreme_eigenpairs, extreme_eigenvalues, hessian


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_returned_value_lies_within_its_bound(name: str, dtype: torch.dtype, restarted: bool) -> None:
    """T11: some eigenvalue of the matrix within [low, high], however few products were made."""
    operator = with_spectrum(SPECTRA[name].to(dtype))
    exact = torch.linalg.eigvalsh(operator.matrix.double()).numpy()
    size = len(exact)
    room = min(size, 10) * size * dtype.itemsize if restarted else 2**31
    for products in (1, 4, 9, 30, 200):
        frame = extreme_eigenvalues(operator, 3, max_products=products, max_basis_bytes=room)
        rows = frame[frame["value"].notna()]
        assert len(rows) >= 1
        for row in rows.itertuples():
            assert ((row.low <= exact) & (exact <= row.high)).any(), row
    # Ten vectors do not resolve the small end of a spectrum over six decades, and the run says so.
    assert frame["converged"].all() or (restarted and frame["rank"][~frame["converged"]].max() < 0)
    wanted = min(3, size)
    expected = numpy.array([*exact[::-1][:wanted], *exact[:wanted]])
    error = abs(frame["value"] - expected)[frame["converged"]]
    assert (error <= 1e-3 * abs(exact).max()).all()


def test_a_matrix_with_nan_is_an_error() -> None:
    matrix = torch.eye(5)
    matrix[2, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"Product 1 with .* is not finite"):
        extreme_eigenvalues(MatrixOperator(matrix), 2)


@pytest.mark.parametrize("case", ["residual", "convolution", "batch norm train"])
def test_arpack_finds_the_same_through_the_same_operator(case: str) -> None:
    operator = hessian(CASES[case]())
    pairs = extreme_eigenpairs(operator, 3, tolerance=1e-10)
    largest = eigsh(operator.to_scipy(), k=3, which="LA", return_eigenvectors=False, tol=1e-10)
    smallest = eigsh(operator.to_scipy(), k=3, which="SA", return_eigenvectors=False, tol=1e-10)
    theirs = [*sorted(largest, reverse=True), *sorted(smallest)]
    numpy.testing.assert_allclose(pairs.frame["value"], theirs, atol=1e-8 * max(largest))
    products = operator.matmat(pairs.vectors.T).T
    torch.testing.assert_close(
        products, torch.tensor(pairs.frame["value"].to_numpy())[:, None] * pairs.vectors, atol=1e-9, rtol=0
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lobpcg_finds_the_same_through_the_same_operator() -> None:
    operator = hessian(CASES["residual"]())
    start = numpy.random.default_rng(0).standard_normal((operator.shape[0], 3))
    theirs, _ = lobpcg(operator.to_scipy(), start, largest=True, maxiter=200, tol=1e-9)
    ours = extreme_eigenvalues(operator, 3, ends="largest", tolerance=1e-9)
    numpy.testing.assert_allclose(ours["value"], sorted(theirs, reverse=True), rtol=1e-7)
    matrix = with_spectrum(trained_like(200)).matrix
    torch.manual_seed(0)
    theirs = torch.lobpcg(matrix, k=4, largest=True, niter=200, tol=1e-10)[0]
    ours = extreme_eigenvalues(MatrixOperator(matrix), 4, ends="largest", tolerance=1e-8)
    numpy.testing.assert_allclose(ours["value"], theirs, rtol=1e-6)


def test_single_precision_finds_what_double_precision_finds() -> None:
    """T19: to 1e-5."""
    values = trained_like(400)
    single = extreme_eigenvalues(Diagonal(values.float()), 4, ends="largest", tolerance=1e-6)
    double = extreme_eigenvalues(Diagonal(values), 4, ends="largest", tolerance=1e-6)
    numpy.testing.assert_allclose(single["value"], double["value"], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["pairs", "fours", "zero point", "crowded"])
def test_converged_means_within_tolerance_of_the_eigenvalue_of_that_rank(
    name: str, dtype: torch.dtype
) -> None:
    """Copies and near copies, too, of which one Krylov space sees one; with and without restarts."""
    values, tolerance = HIDING[name]
    operator = with_spectrum(values.to(dtype))
    exact = torch.linalg.eigvalsh(operator.matrix.double()).numpy()
    sure = 0
    for seed in range(2):
        for room in (12, 1000):
            bytes_ = room * len(values) * dtype.itemsize
            frame = extreme_eigenvalues(
                operator, 5, ends="largest", tolerance=tolerance, seed=seed, max_basis_bytes=bytes_
            )
            error = abs(frame["value"] - exact[::-1][:5])[frame["converged"]]
            assert (error <= tolerance * abs(exact).max()).all()
            sure += int(frame["converged"].sum())
    assert sure >= 12


def test_values_that_another_start_had_no_time_to_confirm_are_not_called_converged() -> None:
    operator = with_spectrum(torch.cat([repeated((1.0, 2)), torch.linspace(0.5, -0.5, 60).double()]))
    reasons = ""
    for products in range(8, 40, 4):
        frame = extreme_eigenvalues(operator, 2, ends="largest", max_products=products)
        reasons += frame["reason"].iloc[0]
        assert (abs(frame["value"] - 1)[frame["converged"]] <= 1e-3).all()
    assert "repeated or missed" in reasons
    assert extreme_eigenvalues(operator, 2, ends="largest")["value"].tolist() == pytest.approx([1, 1])
