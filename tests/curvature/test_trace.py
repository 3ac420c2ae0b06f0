"""The trace to an accuracy, against the diagonal itself."""

import importlib

import numpy
import pandas
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from curvature_matrices import MATRICES, SIZE, normal, rotated
from shortcut_nets import zero_point

import gradscope as gs
from gradscope.curvature import MatrixOperator, hessian
from gradscope.curvature.hutchinson import Hutchinson
from gradscope.curvature.probes import participation_ratio_of


def read(frame: pandas.DataFrame, quantity: str = "trace") -> pandas.Series:
    (row,) = (row for _, row in frame[frame["quantity"] == quantity].iterrows())
    return row


def test_the_public_name_is_the_function() -> None:
    importlib.import_module("gradscope.curvature.trace")  # the module of that name must not take its place
    assert callable(gs.trace)


@pytest.mark.parametrize("name", MATRICES)
def test_exact_is_the_trace(name: str) -> None:
    matrix = MATRICES[name]
    frame = gs.trace(MatrixOperator(matrix), method="exact")
    trace, square = matrix.trace().item(), matrix.square().sum().item()
    expected = {"trace": trace, "trace_of_square": square, "participation_ratio": trace**2 / square}
    for quantity, value in expected.items():
        row = read(frame, quantity)
        numpy.testing.assert_allclose([row["value"], row["low"], row["high"]], value, atol=1e-12 * square)
        assert (row["standard_error"], row["status"], row["products"], row["n"]) == (0, "ok", SIZE, SIZE)
    assert list(frame["unit"]) == ["loss per squared parameter", "(loss per squared parameter)^2", "1"]


@pytest.mark.parametrize("case", ["plain", "residual", "tied weights", "batch norm train", "attention"])
def test_networks(case: str) -> None:
    operator = hessian(CASES[case]())
    exact = operator.dense().trace().item()
    row = read(gs.trace(operator, accuracy=0.2, max_products=60))
    assert abs(row["value"] - exact) <= 4 * row["standard_error"] + 1e-9
    assert list(row.index[: len(operator.conditions)]) == list(operator.conditions)


def test_it_stops_when_the_standard_error_is_small_enough_and_not_before() -> None:
    operator = MatrixOperator(MATRICES["exponential decay"])
    for method in ("hutchinson", "xtrace"):
        counts = []
        for accuracy in (0.2, 0.1, 0.05):
            row = read(gs.trace(operator, accuracy=accuracy, method=method))
            assert row["standard_error"] <= accuracy * abs(row["value"])
            assert (row["status"], row["method"], row["accuracy"]) == ("ok", method, accuracy)
            counts.append(row["products"])
        assert counts == sorted(counts)
        assert counts[-1] > counts[0]


def test_hutchinsons_count_follows_the_participation_ratio() -> None:
    """m = 2 / (accuracy^2 participation_ratio), the law, within a fifth; and what the reason says."""
    matrix = rotated(normal(200) + 0.2, seed=3)
    ratio = matrix.trace().item() ** 2 / matrix.square().sum().item()
    m = 40
    errors = []
    for seed in range(200):
        probes = Hutchinson(MatrixOperator(matrix), torch.Generator().manual_seed(seed))
        probes.extend(m)
        errors.append(numpy.mean(probes.traces) / matrix.trace().item() - 1)
    accuracy = numpy.sqrt(numpy.mean(numpy.square(errors)))
    assert abs(2 / (accuracy**2 * ratio) / m - 1) < 0.2
    told = []
    for seed in range(30):
        row = read(
            gs.trace(MatrixOperator(matrix), accuracy=0.01, method="hutchinson", max_products=300, seed=seed)
        )
        assert row["status"] == "unconverged"
        told.append(float(row["reason"].split("about ")[1].split()[0]))
    assert abs(numpy.median(told) / (2 / (0.01**2 * ratio)) - 1) < 0.2


def test_every_product_counts_towards_xtrace() -> None:
    """Two products a test vector, also when vectors are added many at a time."""
    matrix = rotated(torch.linspace(1, 2, 300))
    row = read(gs.trace(MatrixOperator(matrix), method="xtrace", accuracy=1e-9, max_products=131))
    assert (row["n"], row["products"]) == (65, 130)
    assert row["low"] <= float(matrix.trace()) <= row["high"]


def test_auto_takes_what_the_spectrum_favours() -> None:
    def chosen(name: str, accuracy: float) -> set[str]:
        operator = MatrixOperator(MATRICES[name])
        return {
            read(gs.trace(operator, accuracy=accuracy, seed=s, max_products=90))["method"] for s in range(5)
        }

    assert chosen("power decay", 0.05) == {"xtrace"}
    assert chosen("rank 6, indefinite", 0.05) == {"xtrace"}
    assert chosen("diagonal", 0.05) == {"hutchinson"}
    assert "hutchinson" in chosen("indefinite", 0.05)
    larger = MatrixOperator(MATRICES["indefinite"])
    row = read(gs.trace(larger, accuracy=0.01, max_products=1000))
    assert row["method"] == "exact"
    assert abs(row["value"] - larger.matrix.trace()) < 1e-10
    assert row["products"] <= 2 * SIZE


def test_on_a_decaying_spectrum_thirty_products_do() -> None:
    """Relative error over 60 runs below 5 % with at most 30 products."""
    matrix = MATRICES["outliers and bulk"]
    errors, products = [], []
    for seed in range(60):
        row = read(gs.trace(MatrixOperator(matrix), seed=seed))
        errors.append(row["value"] / matrix.trace().item() - 1)
        products.append(row["products"])
    assert numpy.sqrt(numpy.mean(numpy.square(errors))) < 0.05
    assert max(products) <= 30


def test_sign_vectors_are_exact_on_a_diagonal() -> None:
    row = read(gs.trace(MatrixOperator(MATRICES["diagonal"])))
    assert abs(row["value"] - MATRICES["diagonal"].trace()) < 1e-12
    assert (row["products"], row["method"]) == (10, "hutchinson")


def test_a_trace_of_zero_is_called_so() -> None:
    problem, singular = zero_point(width=4, inner=3, blocks=2)
    operator = hessian(problem)
    row = read(gs.trace(operator, method="hutchinson", max_products=60))
    assert row["status"] == "unconverged"
    assert "zero within its error" in row["reason"]
    assert row["low"] <= 0 <= row["high"]
    square = read(gs.trace(operator, method="hutchinson", max_products=60), "trace_of_square")
    assert square["low"] <= 2 * 6 * singular.square().sum() <= square["high"]
    exact = gs.trace(operator)
    assert (read(exact)["method"], read(exact)["products"] <= 10 + 10 + 48) == ("exact", True)


def test_the_zero_operator() -> None:
    frame = gs.trace(MatrixOperator(torch.zeros(40, 40)))
    assert (read(frame)["value"], read(frame)["status"]) == (0, "ok")
    assert read(frame, "participation_ratio")["status"] == "undefined"
    assert numpy.isnan(read(frame, "participation_ratio")["value"])


def test_what_is_split_off_no_longer_adds_to_the_error() -> None:
    matrix = MATRICES["outliers and bulk"]
    values, vectors = torch.linalg.eigh(matrix)
    unknown = torch.full((1, SIZE), float("nan"), dtype=torch.float64)
    rough = vectors[:, -3:].T + 0.05 * normal(3 * SIZE).view(3, SIZE) / SIZE**0.5
    plain = read(gs.trace(MatrixOperator(matrix), method="hutchinson", max_products=25))
    deflated = read(gs.trace(MatrixOperator(matrix), deflate=torch.cat([rough, unknown]), max_products=25))
    assert deflated["method"] == "deflated hutchinson"
    assert deflated["standard_error"] < 0.2 * plain["standard_error"]
    assert abs(deflated["value"] - values.sum()) < 4 * deflated["standard_error"]
    assert deflated["products"] == deflated["n"] + 3


def test_single_precision_and_a_long_vector_agree_with_double() -> None:
    generator = torch.Generator().manual_seed(0)
    entries = torch.rand(70_000, generator=generator)

    class Long(MatrixOperator):
        """A diagonal and a rank-one part, too large to be formed."""

        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__(torch.eye(2, dtype=dtype))
            self.shape = (len(entries), len(entries))

        def _apply(self, rows: torch.Tensor) -> torch.Tensor:
            vector = entries.to(rows.dtype)
            return rows * vector + (rows @ vector)[:, None] * vector / 100

    rows = [
        gs.trace(Long(dtype), method="xtrace", max_products=40) for dtype in (torch.float32, torch.float64)
    ]
    for single, double in zip(rows[0]["value"], rows[1]["value"], strict=True):
        assert abs(single / double - 1) < 1e-5


def test_the_model_is_left_as_found() -> None:
    problem = CASES["batch norm train"]()
    model = used(problem.model)
    before = snapshot(model)
    gs.trace(hessian(problem), max_products=20)
    assert_as_found(model, before)


def test_bad_requests_say_what_to_do() -> None:
    operator = MatrixOperator(MATRICES["indefinite"])
    for wrong in ({"method": "hutch++"}, {"accuracy": 0}, {"max_products": 3}):
        with pytest.raises(ValueError, match="method one of auto, exact, hutchinson, xtrace"):
            gs.trace(operator, **wrong)
    with pytest.raises(ValueError, match="take method='auto'"):
        gs.trace(operator, method="exact", max_products=50)
    with pytest.raises(ValueError, match="take method='hutchinson'"):
        gs.trace(operator, method="xtrace", max_basis_bytes=1000)
    with pytest.raises(ValueError, match=r"rows of shape \[k, 100\]"):
        gs.trace(operator, deflate=torch.ones(100))
    with pytest.raises(ValueError, match="goes with Hutchinson"):
        gs.trace(operator, deflate=torch.ones(1, 100), method="xtrace")
    operator.symmetric = False
    with pytest.raises(ValueError, match="symmetric operator"):
        gs.trace(operator)
    overflowing = MatrixOperator(torch.eye(30))
    overflowing._apply = lambda rows: rows * float("inf")  # type: ignore[method-assign]
    for method in ("auto", "hutchinson", "xtrace", "exact"):
        with pytest.raises(FloatingPointError, match="not finite"):
            gs.trace(overflowing, method=method)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("method", ["auto", "hutchinson", "xtrace"])
def test_few_parameters_are_not_estimated(size: int, method: str) -> None:
    """Estimates would cost as much, and agree by luck: of three parameters z^T A z takes four values."""
    matrix = rotated(normal(size, seed=3))
    frame = gs.trace(MatrixOperator(matrix), method=method)
    trace, square = float(matrix.trace()), float(matrix.square().sum())
    numpy.testing.assert_allclose(frame["value"], [trace, square, trace**2 / square], atol=1e-10)
    assert set(frame["method"]) == {"exact"}
    assert (frame["products"] == size).all()


def test_xtrace_is_exact_once_its_vectors_span_the_space() -> None:
    matrix = rotated(normal(12, seed=4))
    frame = gs.trace(MatrixOperator(matrix), method="xtrace", accuracy=1e-9)
    assert abs(read(frame)["value"] - matrix.trace()) < 1e-10
    assert (set(frame["status"]), set(frame["method"])) == ({"ok"}, {"exact"})


def test_ten_vectors_that_agree_by_luck_are_no_accuracy() -> None:
    """Three parameters matter: z^T A z is 9 but for one of four sign patterns, where it is -3.

    Ten vectors miss that pattern in 6 of 100 runs and then show no spread at all, at a mean of 9 instead of 6.
    """
    matrix = torch.zeros(SIZE, SIZE, dtype=torch.float64)
    matrix[:3, :3] = torch.tensor([[2.0, 1.5, -1.5], [1.5, 2.0, 1.5], [-1.5, 1.5, 2.0]])
    values = []
    for seed in range(150):
        frame = gs.trace(MatrixOperator(matrix), method="hutchinson", max_products=40, seed=seed)
        values += [read(frame)["value"]] if read(frame)["status"] == "ok" else []
    assert not [value for value in values if abs(value - 6) > 0.2 * 6]


def test_the_law_of_the_variance() -> None:
    """2 (|A|_F^2 - sum_i A_ii^2) / n, within a few per cent from 40 vectors."""
    matrix = MATRICES["indefinite"] + torch.diag(normal(SIZE, seed=7))
    probes = Hutchinson(MatrixOperator(matrix), torch.Generator().manual_seed(0))
    probes.extend(40)
    law = (2 * (matrix.square().sum() - matrix.diagonal().square().sum()) / 40).sqrt()
    assert abs(probes.error_by_law() / law - 1) < 0.05


@pytest.mark.parametrize("name", ["indefinite", "power decay"])
def test_auto_is_no_worse_than_the_better_of_both_at_equal_products(name: str) -> None:
    """By the root mean square error over 40 runs of 20 products; no product goes into finding out which."""
    matrix = MATRICES[name]

    def error(method: str) -> float:
        frames = [
            gs.trace(MatrixOperator(matrix), accuracy=1e-9, method=method, max_products=20, seed=seed)
            for seed in range(40)
        ]
        return float(
            numpy.sqrt(numpy.mean([(read(frame)["value"] - matrix.trace()) ** 2 for frame in frames]))
        )

    assert error("auto") <= 1.05 * min(error("hutchinson"), error("xtrace"))


def test_the_participation_ratio_is_not_called_accurate_where_chance_made_it_large() -> None:
    """Runs that say it is, and are off by more than twice the accuracy asked for: 2 of 100 at most."""
    off = runs = 0
    for shift in (0.3, 0.5):
        matrix = rotated(normal(60) + shift)
        truth = float(matrix.trace() ** 2 / matrix.square().sum())
        for seed in range(80):
            frame = gs.trace(
                MatrixOperator(matrix), method="hutchinson", accuracy=0.2, max_products=20, seed=seed
            )
            row = read(frame, "participation_ratio")
            off += row["status"] == "ok" and abs(row["value"] / truth - 1) > 0.4
            runs += 1
    assert off <= 0.02 * runs


def test_the_participation_ratio_is_unbiased() -> None:
    """The square of an estimate is too large by its variance: here by more than the value itself, were it not off."""
    matrix = MATRICES["traceless"] + 0.02 * torch.eye(SIZE, dtype=torch.float64)
    truth = float(matrix.trace() ** 2 / matrix.square().sum())
    ratios = []
    for seed in range(150):
        probes = Hutchinson(MatrixOperator(matrix), torch.Generator().manual_seed(seed))
        probes.extend(10)
        traces, squares = probes.samples()
        ratios.append((traces.mean() ** 2 - traces.var(ddof=1) / 10) / squares.mean())
        row = participation_ratio_of(traces, squares)
        assert abs(row["value"] - max(0.0, ratios[-1])) < 0.3 * row["standard_error"] + 0.02
    assert abs(numpy.mean(ratios) - truth) < 4 * numpy.std(ratios) / 150**0.5
