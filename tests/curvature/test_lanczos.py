"""The Lanczos recurrence: its invariant, orthogonality, ghosts, restarts, against plain loops."""

import numpy
import pytest
import torch
from scipy.linalg import eigh_tridiagonal
from symmetric_matrices import SPECTRA, Diagonal, trained_like, with_spectrum
from torch import Tensor

from gradscope.curvature import Lanczos, MatrixOperator, Operator
from gradscope.curvature.basis import Basis, dot, norm
from gradscope.curvature.thick_restart import restart


def without_reorthogonalisation(matrix: Tensor, steps: int) -> numpy.ndarray:
    """Ritz values of the bare three-term recurrence."""
    current = torch.randn(len(matrix), generator=torch.Generator().manual_seed(0)).to(matrix)
    current, before, beta = current / current.norm(), torch.zeros_like(current), 0.0
    alphas, betas = [], []
    for _ in range(steps):
        product = matrix @ current
        alphas.append(float(product @ current))
        remainder = product - alphas[-1] * current - beta * before
        beta = float(remainder.norm())
        betas.append(beta)
        before, current = current, remainder / beta
    return eigh_tridiagonal(numpy.array(alphas), numpy.array(betas[:-1]), eigvals_only=True)


def steps(run: Lanczos, count: int) -> Lanczos:
    for _ in range(count):
        run.step()
    return run


def vectors(run: Lanczos) -> Tensor:
    """The basis as columns, [P, m], in float64."""
    return torch.stack([run._basis[place].double() for place in range(run.size)], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_are_no_ghosts(dtype: torch.dtype) -> None:
    """T10: twelve eigenvalues above lambda_12. Without reorthogonalisation there are many times as many."""
    values = trained_like(dtype=dtype)
    operator = with_spectrum(values)
    edge = 0.999 * values[11].item()
    assert (without_reorthogonalisation(operator.matrix, 200) > edge).sum() > 36
    ritz, _ = steps(Lanczos(operator), 200).ritz()
    assert (ritz > edge).sum() == 12
    numpy.testing.assert_allclose(ritz[-12:][::-1], values[:12], atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_basis_stays_orthogonal_to_rounding(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    run = steps(Lanczos(with_spectrum(trained_like(dtype=dtype))), 60)
    basis = vectors(run)
    worst = (basis.T @ basis - torch.eye(run.size, dtype=torch.float64)).abs().max()
    assert worst < 40 * eps


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_says_what_the_operator_does_to_its_basis(restarted: bool) -> None:
    """A Q_m = Q_{m+1} times the extended T."""
    operator = with_spectrum(trained_like(100))
    run = steps(Lanczos(operator), 20)
    if restarted:
        keep = numpy.zeros(20, dtype=bool)
        keep[[0, 1, 2, 17, 18, 19]] = True
        run.restart(numpy.zeros(0, dtype=bool), keep)
        assert run.size == 6
        steps(run, 5)
    basis = vectors(run)
    following = run._next.double() / run._length
    expected = torch.cat([basis, following[:, None]], dim=1) @ torch.tensor(run.extended())
    torch.testing.assert_close(operator.matrix @ basis, expected, atol=1e-13, rtol=0)


def test_vectors_of_long_single_precision_runs_keep_to_their_residuals() -> None:
    """|A u - theta u| is at most the residual: the basis is made orthogonal in full at any length."""
    values = trained_like(2**18, dtype=torch.float32)
    run = steps(Lanczos(Diagonal(values)), 20)
    ritz, bounds = run.ritz()
    found = run.ritz_vectors([19, 18, 17]).double()
    residuals = (found * values.double() - torch.tensor(ritz[[19, 18, 17]])[:, None] * found).norm(dim=1)
    assert (residuals.numpy() <= bounds[[19, 18, 17]]).all()
    assert (found @ found.T - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["trained", "repeated", "indefinite", "low rank"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_stays_within_noise_also_after_restarts(name: str, dtype: torch.dtype) -> None:
    """Measured by a product with every Ritz vector, from the matrix in float64."""
    operator = with_spectrum(SPECTRA[name].to(dtype))
    matrix = operator.matrix.double()
    run = Lanczos(operator, capacity=12)
    for _ in range(80):
        if run.full:
            restart(run, 2, (1, -1))
        run.step()
        if run.steps % 10 == 0:
            ritz, bounds = run.ritz()
            found = run.ritz_vectors(list(range(run.size))).double()
            residuals = (found @ matrix - torch.tensor(ritz)[:, None] * found).norm(dim=1).numpy()
            assert (residuals <= bounds).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [5, 15, 40])
def test_the_residual_bound_covers_the_true_error(dtype: torch.dtype, count: int) -> None:
    operator = with_spectrum(trained_like(dtype=dtype))
    exact = torch.linalg.eigvalsh(operator.matrix.double())
    for seed in range(5):
        ritz, bounds = steps(Lanczos(operator, seed=seed), count).ritz()
        distances = (torch.tensor(ritz)[:, None] - exact).abs().min(dim=1).values
        assert (distances.numpy() <= bounds).all()


def test_a_given_start_is_used() -> None:
    operator = MatrixOperator(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    run = steps(Lanczos(operator, start=torch.tensor([0.0, 0, 0, 0, 2])), 1)
    assert run.extended().tolist() == [[5.0], [0.0]]
    for start, what in ((torch.zeros(5), "length 0"), (torch.full((5,), torch.nan), "length nan")):
        with pytest.raises(ValueError, match=f"vector of {what}"):
            Lanczos(operator, start=start)
    with pytest.raises(ValueError, match=r"shape \[5\], got \[4\]"):
        Lanczos(operator, start=torch.ones(4))


def test_a_full_basis_and_an_exhausted_run_say_so() -> None:
    operator = with_spectrum(trained_like(40))
    run = steps(Lanczos(operator, capacity=4), 4)
    assert run.full
    with pytest.raises(ValueError, match="holds 4 vectors and is full"):
        run.step()
    with pytest.raises(ValueError, match="already spans all 40"):
        steps(Lanczos(operator), 41)


def test_an_operator_that_returns_its_argument_is_not_written_to() -> None:
    class Identity(Operator):
        def _apply(self, rows: Tensor) -> Tensor:
            return rows

    run = steps(Lanczos(Identity(6, torch.float64, torch.device("cpu"))), 4)
    torch.testing.assert_close(vectors(run).T @ vectors(run), torch.eye(4, dtype=torch.float64))


def test_a_basis_rotates_in_place_across_its_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 2**14 + 7, generator=generator, dtype=torch.float64)
    weights = numpy.random.default_rng(0).standard_normal((20, 18))
    basis = Basis(rows.shape[1], torch.float64, torch.device("cpu"), capacity=21)
    for row in rows:
        basis.append(row, 2.0)
    expected = torch.tensor(weights).T @ rows / 2
    torch.testing.assert_close(basis.combined(weights), expected)
    basis.rotate(weights)
    assert len(basis) == 18
    torch.testing.assert_close(torch.stack([basis[place] for place in range(18)]), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e18, 1e30])
def test_lengths_and_products_of_single_precision_vectors(scale: float) -> None:
    vector = scale * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert norm(vector) == pytest.approx(float(vector.double().norm()), rel=1e-7)
    unit = torch.ones(200_000) / 200_000**0.5
    exact = float(vector.double() @ unit.double())
    assert dot(vector, unit) == pytest.approx(exact, abs=1e-8 * norm(vector))


def test_a_renewed_run_keeps_its_vectors_and_looks_beside_them() -> None:
    operator = with_spectrum(trained_like(60))
    run = steps(Lanczos(operator), 20)
    kept = run.ritz_vectors([18, 19])
    before = run.ritz()[0]
    keep = numpy.arange(20) >= 18
    second = steps(run.renewed(keep), 5)
    assert second.steps == 25 and second.size == 7
    torch.testing.assert_close(second.kept_vectors([0, 1]), kept)
    torch.testing.assert_close(vectors(second).T @ vectors(second), torch.eye(7, dtype=torch.float64))
    numpy.testing.assert_array_equal(run.ritz()[0], before)
    with pytest.raises(ValueError, match="is full"):
        run.step()
