"""The spectral density against known spectra."""

import numpy
import pandas
import pytest
import torch
from cases import CASES
from curvature_matrices import MATRICES
from scipy.stats import norm, wasserstein_distance
from shortcut_nets import zero_point
from torch import nn

from gradscope.curvature import MatrixOperator, hessian, spectral_density
from gradscope.curvature.quadrature import recurrences
from gradscope.problem import Problem


def read(frame: pandas.DataFrame, quantity: str) -> pandas.Series:
    (row,) = (row for _, row in frame[frame["quantity"] == quantity].iterrows())
    return row


def diagonal(values: torch.Tensor) -> MatrixOperator:
    return MatrixOperator(torch.diag(values))


@pytest.mark.parametrize("case", ["plain", "residual", "convolution", "batch norm train"])
def test_the_density_integrates_to_one(case: str) -> None:
    frame = spectral_density(hessian(CASES[case]()), probes=3, steps=20)
    curve = frame[frame["quantity"] == "spectral_density"]
    assert abs(numpy.trapezoid(curve["value"], curve["eigenvalue"]) - 1) < 1e-5
    assert (curve["low"] <= curve["value"]).all()
    assert (curve["value"] <= curve["high"]).all()


@pytest.mark.parametrize("case", CASES)
def test_traces_lie_within_four_standard_errors(case: str) -> None:
    operator = hessian(CASES[case]())
    matrix = operator.dense()
    frame = spectral_density(operator, probes=30, steps=3)
    for quantity, exact in (("trace", matrix.trace()), ("trace_of_square", matrix.square().sum())):
        row = read(frame, quantity)
        assert abs(row["value"] - exact) <= 4 * row["standard_error"] + 1e-12


def test_units_and_products() -> None:
    frame = spectral_density(diagonal(torch.arange(9.0)), probes=3, steps=4)
    assert dict(zip(frame["quantity"], frame["unit"], strict=True)) == {
        "spectral_density": "squared parameters per loss",
        "trace": "loss per squared parameter",
        "trace_of_square": "(loss per squared parameter)^2",
        "participation_ratio": "1",
        "absolute_trace": "loss per squared parameter",
        "negative_share": "1",
        "share_above": "1",
        "zero_rows": "1",
        "zero_row_fraction": "1",
    }
    assert set(frame["products"]) == {3 * 4 + 1}  # one to make sure of the zero row
    assert set(frame["n"]) == {3}


@pytest.mark.parametrize("name", MATRICES)
def test_the_density_comes_nearer_with_steps(name: str) -> None:
    """Distance between distributions (W1) to the dense spectrum, over the range; the steps are the only change."""
    exact = torch.linalg.eigvalsh(MATRICES[name]).numpy()
    distances = []
    for steps in (2, 6, 18):
        runs, _ = recurrences(MatrixOperator(MATRICES[name]), 40, steps, seed=0)
        rules = [run.quadrature() for run in runs]
        nodes, weights = (numpy.concatenate(parts) for parts in zip(*rules, strict=True))
        distances.append(wasserstein_distance(exact, nodes, None, weights) / (exact.max() - exact.min()))
    # What is left is the probes' own spread, which no step takes away.
    left = {"diagonal": 1e-9}.get(name, 0.01)
    assert distances[1] < distances[0] or distances[1] < left
    assert distances[2] < distances[1] or distances[2] < left
    assert distances[2] < 0.03


def test_counting_needs_a_threshold_that_the_steps_resolve() -> None:
    matrix = MATRICES["indefinite"]
    values = torch.linalg.eigvalsh(matrix)
    operator = MatrixOperator(matrix)
    frame = spectral_density(operator, probes=20, steps=40)
    limit = numpy.pi * float(values[-1] - values[0]) / 40
    for quantity, true in (("negative_share", values < -limit), ("share_above", values.abs() > limit)):
        row = read(frame, quantity)
        assert row["threshold"] == pytest.approx(limit, rel=0.01)
        assert row["low"] <= true.double().mean() <= row["high"]
    below = spectral_density(operator, probes=3, steps=10, threshold=0.01)
    for quantity in ("negative_share", "share_above"):
        row = read(below, quantity)
        assert (row["status"], numpy.isnan(row["value"])) == ("undefined", True)
        assert "below the resolution of 10 steps" in row["reason"]
    coarse = read(spectral_density(operator, probes=3, steps=8), "share_above")
    assert coarse["status"] == "unconverged"
    assert "8 steps leave the share between" in coarse["reason"]


def test_an_exhausted_space_resolves_any_threshold() -> None:
    """The 2-shortcut net at zero weights: half of its eigenvalues are negative, however small."""
    problem, singular = zero_point(width=3, inner=2, blocks=2)
    tiny = float(singular[-1]) / 100
    frame = spectral_density(hessian(problem), probes=40, steps=12, threshold=tiny)
    row = read(frame, "negative_share")
    assert row["status"] == "ok"
    assert row["low"] <= 0.5 <= row["high"]
    assert read(frame, "share_above")["value"] == pytest.approx(1, abs=1e-9)
    row = read(frame, "absolute_trace")
    assert row["low"] <= 2 * 2 * 2 * float(singular.sum()) <= row["high"]


def test_rows_whose_entries_cancel_are_not_zero_rows() -> None:
    """1 and -1 in a row cancel for half of all sign vectors; with two probes, for a quarter of the draws."""
    pair = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    matrix = torch.block_diag(*[pair] * 20, torch.zeros(3, 3, dtype=torch.float64))
    frame = spectral_density(MatrixOperator(matrix), probes=2, steps=2)
    row = read(frame, "zero_rows")
    assert row["value"] == 3
    assert row["reason"] == "rows whose products with 2 sign vectors and a normal one are exactly 0"
    assert row["low"] == row["high"] == 3
    assert read(frame, "zero_row_fraction")["value"] == 3 / 43
    none = read(spectral_density(MatrixOperator(MATRICES["indefinite"]), probes=2, steps=2), "zero_rows")
    assert (none["value"], none["reason"]) == (
        0,
        "each row has a product with one of 2 sign vectors that is not 0",
    )


@pytest.mark.parametrize("scale", [1e-25, 1e-9, 1.0, 1e9, 1e15])
def test_the_scale_of_the_loss_only_scales(scale: float) -> None:
    """To single precision: lost orthogonality makes more of rounding in the shares than in the traces."""
    matrix = MATRICES["outliers and bulk"].float()
    one = spectral_density(MatrixOperator(matrix), probes=3, steps=6)
    other = spectral_density(MatrixOperator(matrix * scale), probes=3, steps=6)
    for quantity, power, tolerance in (
        ("trace", 1, 1e-5),
        ("trace_of_square", 2, 1e-5),
        ("participation_ratio", 0, 1e-5),
        ("absolute_trace", 1, 1e-2),
        ("share_above", 0, 1e-2),
    ):
        expected = scale**power * read(one, quantity)["value"]
        assert read(other, quantity)["value"] == pytest.approx(expected, rel=tolerance)


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
    """A semicircle of 800 eigenvalues, seen in 60 steps: cumulative mass agrees to a percent of all."""
    size = 800
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
    with pytest.raises(ValueError, match="threshold is a positive eigenvalue"):
        spectral_density(operator, threshold=0.0)
    with pytest.raises(ValueError, match="pass points="):
        spectral_density(operator, points=20, resolution=1e-3)
    operator.symmetric = False
    with pytest.raises(ValueError, match="symmetric operator"):
        spectral_density(operator)
    with pytest.raises(FloatingPointError, match="not finite"):
        spectral_density(diagonal(torch.tensor([1.0, float("inf"), 2.0])))
