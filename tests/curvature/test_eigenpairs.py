"""Eigenvectors, warm starts, progress and interruption."""

import numpy
import pandas
import pytest
import torch
from as_found import assert_as_found, snapshot
from cases import CASES
from symmetric_matrices import Diagonal, semicircle, trained_like, with_spectrum

import gradscope
from gradscope.curvature import Lanczos, MatrixOperator, extreme_eigenpairs, extreme_eigenvalues, hessian


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("room", [2**31, 14])
def test_each_vector_belongs_to_its_value(dtype: torch.dtype, room: int) -> None:
    operator = with_spectrum(semicircle(60).to(dtype))
    bytes_ = room * 60 * dtype.itemsize if room < 100 else room
    pairs = extreme_eigenpairs(operator, 4, max_basis_bytes=bytes_, max_products=25, tolerance=1e-6)
    assert not pairs.frame["converged"].all()
    assert pairs.vectors.shape == (8, 60) and pairs.vectors.dtype == dtype
    vectors = pairs.vectors.double()
    values = torch.tensor(pairs.frame["value"].to_numpy())
    residuals = (vectors @ operator.matrix.double() - values[:, None] * vectors).norm(dim=1)
    assert (residuals.numpy() <= pairs.frame["residual"]).all()
    gram = vectors @ vectors.T
    torch.testing.assert_close(gram, torch.eye(8, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_frame_is_that_of_extreme_eigenvalues() -> None:
    operator = with_spectrum(trained_like(80))
    pairs = gradscope.extreme_eigenpairs(operator, 3, seed=4)
    pandas.testing.assert_frame_equal(pairs.frame, extreme_eigenvalues(operator, 3, seed=4), check_exact=True)
    again = extreme_eigenpairs(operator, 3, seed=4)
    assert torch.equal(pairs.vectors, again.vectors)


def test_vectors_not_reached_are_nan_and_can_be_started_from() -> None:
    operator = with_spectrum(trained_like(60))
    pairs = extreme_eigenpairs(operator, 5, ends="largest", max_products=3)
    assert pairs.vectors.isnan().all(dim=1).tolist() == [False, False, False, True, True]
    assert extreme_eigenpairs(operator, 2, start=pairs.vectors).frame["converged"].all()
    for start, what in ((pairs.vectors[3:], "no vector that is finite"), (torch.ones(5), r"shape \[60\]")):
        with pytest.raises(ValueError, match=what):
            extreme_eigenpairs(operator, 2, start=start)


@pytest.mark.parametrize(("k", "room"), [(1, 1000), (5, 12)])
def test_old_vectors_cost_no_products_along_training(k: int, room: int) -> None:
    """Hessians of five training steps; the values are those of a cold start."""
    problem = CASES["residual"]()
    inputs, targets = problem.first_batch()
    optimiser = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    operator = hessian(problem, check="none")
    bytes_ = room * operator.shape[0] * 8
    options = {"k": k, "ends": "largest", "max_basis_bytes": bytes_}
    vectors, products = None, {"cold": 0, "warm": 0}
    for _ in range(5):
        cold = extreme_eigenvalues(operator, **options)
        warm = extreme_eigenpairs(operator, **options, start=vectors)
        assert warm.frame["converged"].all()
        numpy.testing.assert_allclose(warm.frame["value"], cold["value"], atol=2e-3 * cold["value"].max())
        if vectors is not None:
            products["cold"] += cold["products"].iloc[0]
            products["warm"] += warm.frame["products"].iloc[0]
        vectors = warm.vectors
        optimiser.zero_grad()
        problem.value(inputs, targets).backward()
        optimiser.step()
    assert products["warm"] == products["cold"] if k == 1 else products["warm"] < products["cold"]


@pytest.mark.parametrize("k", [1, 5])
def test_a_warm_start_sees_a_direction_that_has_overtaken_the_old_ones(k: int) -> None:
    old = trained_like(2410)
    for seed in range(10):
        vectors = extreme_eigenpairs(Diagonal(old), k, ends="largest").vectors
        new = old.clone()
        new[1000 + seed] = 1.5
        frame = extreme_eigenvalues(Diagonal(new), k, ends="largest", start=vectors, seed=seed)
        expected = new.sort(descending=True).values[:k]
        numpy.testing.assert_allclose(frame["value"], expected, atol=1e-3)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("ends", ["largest", "both"])
def test_a_warm_start_is_not_deceived_by_a_value_that_the_new_one_has_just_overtaken(
    k: int, ends: str
) -> None:
    """The old vector is still nearly as good, and a run that starts from it converges to it first."""
    for seed in range(4):
        old = 0.3 * torch.linspace(-1, 1, 10_000, dtype=torch.float64)
        old[:4] = torch.tensor([10.0, 5, -8, -4])
        vectors = extreme_eigenpairs(Diagonal(old), k, ends=ends, seed=seed).vectors
        new = old.clone()
        new[1], new[3] = 10.3, -8.24
        frame = extreme_eigenvalues(Diagonal(new), k, ends=ends, start=vectors, seed=seed)
        expected = [10.3, 10.0][:k] + ([-8.24, -8.0][:k] if ends == "both" else [])
        error = abs(frame["value"] - expected)[frame["converged"]]
        assert len(error) and (error <= 1e-3 * 10.3).all()


def test_progress_is_told_after_each_product() -> None:
    operator = MatrixOperator(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    told: list[int] = []
    frame = extreme_eigenvalues(operator, 1, callback=lambda run: told.append(run.steps))
    assert told == list(range(1, len(told) + 1))
    assert frame["products"].iloc[0] == len(told) == operator.products


def test_an_interrupted_run_leaves_nothing_and_can_be_taken_up() -> None:
    problem = CASES["plain"]()
    before = snapshot(problem.model)
    operator = hessian(problem, check="none")
    kept: list[torch.Tensor] = []

    def interrupt(run: Lanczos) -> None:
        if run.steps == 6:
            kept.append(run.ritz_vectors([run.size - 1, run.size - 2]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extreme_eigenvalues(operator, 3, callback=interrupt)
    assert_as_found(problem.model, before)
    cold = extreme_eigenvalues(operator, 2, ends="largest")
    taken_up = extreme_eigenvalues(operator, 2, ends="largest", start=kept[0])
    assert taken_up["products"].iloc[0] <= cold["products"].iloc[0]
    numpy.testing.assert_allclose(taken_up["value"], cold["value"], rtol=1e-4)
