"""The spectral density against known spectra."""

import numpy
import pandas
import pytest
import torch
from cases import CASES
from scipy.stats import norm
from shortcut_nets import zero_point
from torch import nn

from gradscope.curvature import MatrixOperator, hessian, spectral_density
from gradscope.problem import Problem


def read(frame: pandas.DataFrame, quantity: str) -> pandas.Series:
    (row,) = (row for _, row in frame[frame["quantity"] == quantity].iterrows())
    return row


def diagonal(values: torch.Tensor) -> MatrixOperator:
    return MatrixOperator(torch.diag(values))


@pytest.mark.parametrize("case", ["plain", "residual", "convolution", "batch norm train"])
def test_the_density_integrates_to_one(case: str) -> None:
    frame = spectral_density(hessian(CASES[case]()))
    curve = frame[frame["quantity"] == "spectral_density"]
    assert abs(numpy.trapezoid(curve["value"], curve["eigenvalue"]) - 1) < 1e-5
    assert (curve["low"] <= curve["value"]).all()
    assert (curve["value"] <= curve["high"]).all()


@pytest.mark.parametrize("case", CASES)
def test_traces_lie_within_four_standard_errors(case: str) -> None:
    operator = hessian(CASES[case]())
    matrix = operator.dense()
    frame = spectral_density(operator, probes=30, steps=5)
    for quantity, exact in (("trace", matrix.trace()), ("trace_of_square", matrix.square().sum())):
        row = read(frame, quantity)
        assert abs(row["value"] - exact) <= 4 * row["standard_error"] + 1e-12


def test_trace_intervals_cover_as_often_as_they_say() -> None:
    matrix = torch.randn(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix @ matrix.T
    covered = 0
    for seed in range(60):
        row = read(spectral_density(MatrixOperator(matrix), steps=2, points=50, seed=seed), "trace")
        covered += row["low"] <= matrix.trace() <= row["high"]
    assert covered / 60 >= 0.85


def test_the_density_of_a_known_spectrum() -> None:
    """Rademacher probes of a diagonal matrix weigh all eigenvalues alike: only smoothing is left."""
    values = torch.tensor([-1.0, -1.0, 0.0, 0.5, 0.5, 0.5, 2.0, 4.0], dtype=torch.float64)
    frame = spectral_density(diagonal(values), resolution=0.2)
    curve = frame[frame["quantity"] == "spectral_density"]
    deviation = 0.2 / (2 * numpy.sqrt(2 * numpy.log(2)))
    grid = curve["eigenvalue"].to_numpy()
    expected = norm.pdf(grid[:, None], loc=values.numpy(), scale=deviation).mean(axis=1)
    numpy.testing.assert_allclose(curve["value"], expected, atol=1e-9)
    assert (curve["resolution"] == 0.2).all()
    assert abs(read(frame, "trace")["value"] - values.sum()) < 1e-12
    assert abs(read(frame, "trace_of_square")["value"] - values.square().sum()) < 1e-12
    assert read(frame, "zero_row_fraction")["value"] == 1 / 8


def test_a_broad_spectrum_is_followed_to_the_resolution() -> None:
    """A semicircle of 1500 eigenvalues, seen in 60 steps: cumulative mass agrees to a percent of all."""
    size = 1500
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(size, size, generator=generator, dtype=torch.float64)
    operator = MatrixOperator((noise + noise.T) / (2 * size) ** 0.5)
    frame = spectral_density(operator, steps=60)
    curve = frame[frame["quantity"] == "spectral_density"]
    mass = numpy.cumsum(curve["value"]) * numpy.diff(curve["eigenvalue"]).mean()
    exact = torch.linalg.eigvalsh(operator.matrix).numpy()
    counted = numpy.searchsorted(exact, curve["eigenvalue"]) / size
    assert abs(mass - counted).max() < 0.02


def test_forgetting_the_basis_does_no_harm_in_single_precision() -> None:
    """An outlier beside a bulk: ghosts of the outlier share its weight, 1/400."""
    values = torch.cat([torch.linspace(-0.1, 0.1, 399), torch.tensor([5.0])])
    frame = spectral_density(diagonal(values), steps=100, points=3000)
    curve = frame[frame["quantity"] == "spectral_density"]
    near = curve[curve["eigenvalue"] > 4]
    assert abs(numpy.trapezoid(near["value"], near["eigenvalue"]) - 1 / 400) < 1e-5


def test_two_shortcut_zero_point_has_no_trace() -> None:
    problem, singular = zero_point(width=4, inner=3, blocks=2)
    frame = spectral_density(hessian(problem), probes=40, steps=6)
    row = read(frame, "trace")
    assert row["low"] <= 0 <= row["high"]
    row = read(frame, "trace_of_square")
    assert abs(row["value"] - 2 * 6 * singular.square().sum()) < 4 * row["standard_error"]


def test_a_point_mass_has_no_density() -> None:
    frame = spectral_density(diagonal(torch.full((6,), 2.5)))
    row = read(frame, "spectral_density")
    assert row["status"] == "undefined"
    assert numpy.isnan(row["value"])
    assert "2.5" in row["reason"]
    assert abs(read(frame, "trace")["value"] - 15) < 1e-5
    problem, _ = zero_point(width=3, inner=3, blocks=2, layers=3)
    zero = spectral_density(hessian(problem))
    assert read(zero, "zero_row_fraction")["value"] == 1
    assert read(zero, "trace_of_square")["value"] == 0


def test_weights_of_a_constant_zero_input_are_counted() -> None:
    inputs = torch.randn(6, 4, dtype=torch.float64)
    inputs[:, 1] = 0
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    operator = hessian(Problem(net, (inputs, torch.randint(0, 3, (6,)))))
    assert read(spectral_density(operator, steps=3), "zero_row_fraction")["value"] == 5 / operator.shape[0]


def test_retained_and_streamed_graphs_give_one_table() -> None:
    problem = CASES["short last batch"]()
    kept = spectral_density(hessian(problem), probes=3, steps=10)
    streamed = spectral_density(hessian(problem, budget_bytes=0), probes=3, steps=10)
    pandas.testing.assert_frame_equal(kept, streamed)


def test_bad_requests_say_what_to_do() -> None:
    operator = diagonal(torch.arange(5.0))
    with pytest.raises(ValueError, match="probes >= 2"):
        spectral_density(operator, probes=1)
    with pytest.raises(ValueError, match="pass points="):
        spectral_density(operator, points=20, resolution=1e-3)
    operator.symmetric = False
    with pytest.raises(ValueError, match="symmetric operator"):
        spectral_density(operator)
    with pytest.raises(FloatingPointError, match="not finite"):
        spectral_density(diagonal(torch.tensor([1.0, float("inf"), 2.0])))
