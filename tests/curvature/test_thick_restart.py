"""Runs whose basis is too small for them, against dense diagonalisation."""

import numpy
import pytest
import torch
from shortcut_nets import zero_point
from symmetric_matrices import semicircle, trained_like, with_spectrum

from gradscope.curvature import MatrixOperator, extreme_eigenvalues, hessian
from gradscope.curvature.thick_restart import vectors_held


@pytest.mark.parametrize("ends", ["both", "largest", "smallest"])
@pytest.mark.parametrize("spare", [4, 10, 20])
def test_a_small_basis_finds_the_same_eigenvalues(ends: str, spare: int) -> None:
    operator = with_spectrum(semicircle(100))
    exact = torch.linalg.eigvalsh(operator.matrix).numpy()
    wanted = {"both": [*exact[::-1][:3], *exact[:3]], "largest": exact[::-1][:3], "smallest": exact[:3]}[ends]
    room = len(wanted) + spare
    sizes: list[int] = []
    frame = extreme_eigenvalues(
        operator,
        3,
        ends=ends,
        tolerance=1e-8,
        max_products=600,
        max_basis_bytes=room * 800 + 799,
        callback=lambda run: sizes.append(run.size),
    )
    assert frame["converged"].all()
    numpy.testing.assert_allclose(frame["value"], wanted, atol=1e-8)
    assert max(sizes) == room < len(sizes)
    assert (frame["products"] == operator.products).all()


def test_the_largest_absolute_value_is_remembered_when_its_end_is_not_wanted() -> None:
    operator = with_spectrum(torch.cat([torch.tensor([-100.0]).double(), trained_like(80)]))
    options = {"k": 2, "ends": "largest", "tolerance": 1e-4}
    long = extreme_eigenvalues(operator, **options)
    short = extreme_eigenvalues(operator, **options, max_basis_bytes=10 * 81 * 8)
    assert long["converged"].all() and short["converged"].all()
    assert short["products"].iloc[0] <= 2 * long["products"].iloc[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(3))
def test_copies_are_found_in_a_restarted_run(dtype: torch.dtype, seed: int) -> None:
    """The 2-shortcut zero point: +-sigma_i, each 6 times; 8 wanted of them, with room for 20 vectors of 48."""
    problem, singular = zero_point(width=4, inner=3, blocks=2)
    operator = MatrixOperator(hessian(problem).dense().to(dtype))
    room = 20 * operator.shape[0] * dtype.itemsize
    frame = extreme_eigenvalues(operator, 8, ends="largest", seed=seed, max_basis_bytes=room)
    # In single precision a block may close too faintly to be noticed after a restart: unconverged, not wrong.
    assert frame["converged"].all() or dtype == torch.float32
    sure = frame["converged"]
    assert sure.sum() >= 4
    expected = singular.repeat_interleave(6)[:8].numpy()[sure]
    numpy.testing.assert_allclose(frame["value"][sure], expected, rtol=1e-5)


def test_room_for_too_few_vectors_is_one_clear_error() -> None:
    operator = with_spectrum(trained_like(100))
    with pytest.raises(ValueError, match=r"needs? a Lanczos basis of 14 vectors of 800 bytes") as caught:
        extreme_eigenvalues(operator, 5, max_basis_bytes=9 * 800)
    assert "max_basis_bytes=11200 or more, or ask for k=2 or fewer" in str(caught.value)
    assert operator.products == 0
    assert extreme_eigenvalues(operator, 5, max_basis_bytes=14 * 800)["value"].notna().all()
    with pytest.raises(ValueError, match=r"or more\.$"):
        extreme_eigenvalues(operator, 5, max_basis_bytes=800)
    assert len(extreme_eigenvalues(MatrixOperator(torch.eye(3)), 5, max_basis_bytes=36)) == 6


def test_a_basis_of_a_network_restarts_before_it_is_long() -> None:
    million = 4 * 2**20
    assert vectors_held(10, (1,), 2**20, million, 2**31) == 40
    assert vectors_held(5, (1, -1), 2**20, million, 2**31) == 40
    assert vectors_held(10, (1,), 2**20, million, 30 * million) == 30
    assert vectors_held(1, (1,), 1000, 4000, 2**31) == 1000
