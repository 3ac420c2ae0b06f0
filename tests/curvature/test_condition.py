"""Condition numbers against their definitions, written out on the dense spectrum."""

from itertools import pairwise

import numpy
import pytest
import torch
from cases import CASES
from shortcut_nets import zero_point

from gradscope.curvature import Lanczos, MatrixOperator, condition_number, extreme_eigenvalues, hessian
from gradscope.curvature.condition import DEFINITIONS
from gradscope.curvature.condition_definitions import lower_bound


def spectrum(case: str) -> numpy.ndarray:
    return torch.linalg.eigvalsh(hessian(CASES[case]()).dense()).numpy()


EXPECTED = {
    "extreme_ratio": lambda values: abs(values).max() / abs(values).min(),
    "percentile_10": lambda values: abs(values).max() / numpy.percentile(abs(values), 10),
    "negative_ratio": lambda values: abs(values.min()) / values.max(),
    "top_ratio": lambda values: numpy.sort(values)[-1] / numpy.sort(values)[-5],
    "learning_rate_product": lambda values: 0.1 * values.max(),
}


@pytest.mark.parametrize("definition", EXPECTED)
def test_definitions_on_a_known_spectrum(definition: str) -> None:
    values = numpy.array([-3.0, -0.5, 0.1, 0.25, 1.0, 2.0, 4.0, 8.0])
    expected = EXPECTED[definition](values)
    for given in (MatrixOperator(torch.diag(torch.tensor(values))), torch.tensor(values), values):
        (row,) = condition_number(given, definition, learning_rate=0.1, tolerance=1e-10).to_dict("records")
        assert abs(row["value"] - expected) < 1e-9 * expected
        assert row["low"] <= expected <= row["high"]
        assert (row["quantity"], row["definition"], row["status"]) == ("condition_number", definition, "ok")


@pytest.mark.parametrize("definition", ["negative_ratio", "top_ratio", "learning_rate_product"])
def test_operator_and_frame_of_eigenvalues_agree_with_the_dense_spectrum(definition: str) -> None:
    operator = hessian(CASES["residual"]())
    frame = extreme_eigenvalues(operator, 5, tolerance=1e-6)
    expected = EXPECTED[definition](spectrum("residual"))
    for given in (operator, frame):
        (row,) = condition_number(given, definition, learning_rate=0.1, tolerance=1e-6).to_dict("records")
        assert abs(row["value"] - expected) < 1e-5 * expected
        assert row["low"] <= expected <= row["high"]


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_two_shortcut_nets_are_conditioned_alike_at_every_depth(blocks: int) -> None:
    problem, singular = zero_point(width=4, inner=3, blocks=blocks)
    (row,) = condition_number(hessian(problem), "extreme_ratio").to_dict("records")
    assert abs(row["value"] - singular[0] / singular[-1]) < 1e-10 * row["value"]


def test_kappa_lower_bounds_and_never_decreases() -> None:
    problem, singular = zero_point(width=6, inner=3, blocks=2)
    zero_net = hessian(problem)
    damped = torch.randn(60, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ridge = MatrixOperator(damped @ damped.T / 30 + 1e-3 * torch.eye(60, dtype=torch.float64))
    for operator in (zero_net, ridge, hessian(CASES["residual"]())):
        sizes = torch.linalg.eigvalsh(operator.dense()).abs()
        exact = (sizes.max() / sizes.min()).item()
        run = Lanczos(operator)
        bounds = []
        for _ in range(40):
            run.step()
            bounds.append(lower_bound(run))
        assert max(bounds) <= exact * (1 + 1e-9)
        assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(bounds))
    exact = (singular[0] / singular[-1]).item()
    (row,) = condition_number(zero_net, "kappa_lower", max_products=40).to_dict("records")
    assert abs(row["value"] - exact) < 1e-6 * exact
    assert row["high"] == float("inf")
    assert "40 products" in row["reason"]


def test_a_singular_operator_has_an_infinite_condition_number() -> None:
    operator = MatrixOperator(torch.diag(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)))
    (row,) = condition_number(operator, "extreme_ratio").to_dict("records")
    assert row["value"] == row["high"] == float("inf")
    assert 1e12 < row["low"] < float("inf")
    assert "zero to rounding" in row["reason"]


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_zero_operator_has_none(definition: str) -> None:
    operator = MatrixOperator(torch.zeros(6, 6))
    (row,) = condition_number(operator, definition, learning_rate=0.1).to_dict("records")
    if definition == "learning_rate_product":
        assert row["value"] == 0
    else:
        assert row["status"] == "undefined"
        assert numpy.isnan(row["value"])
        assert row["reason"]


def test_what_cannot_be_had_is_undefined_with_a_reason() -> None:
    class Wide(MatrixOperator):
        def __init__(self) -> None:
            super().__init__(torch.eye(2))
            self.shape = (6000, 6000)

    frame = extreme_eigenvalues(MatrixOperator(torch.diag(torch.arange(1.0, 9.0))), 2)
    for given, definition, reason in [
        (Wide(), "extreme_ratio", "P = 6000 is over 5000"),
        (frame, "percentile_10", "needs all eigenvalues"),
        (frame, "top_ratio", "rank 5 is not among"),
        (frame, "kappa_lower", "pass the operator"),
        (torch.tensor([-2.0, -1.0]), "negative_ratio", "largest eigenvalue, -1, is not positive"),
        (torch.tensor([3.0, 0, 0, 0, -1.0]), "top_ratio", "fifth-largest eigenvalue, -1, is not positive"),
    ]:
        (row,) = condition_number(given, definition).to_dict("records")
        assert row["status"] == "undefined"
        assert numpy.isnan(row["value"])
        assert reason in row["reason"]


def test_unconverged_eigenvalues_are_passed_on_as_such() -> None:
    operator = MatrixOperator(torch.diag(torch.logspace(0, -3, 300, dtype=torch.float64)))
    (row,) = condition_number(operator, "top_ratio", max_products=6).to_dict("records")
    assert row["status"] == "unconverged"
    assert row["low"] < row["value"] < row["high"]


def test_bad_requests_say_what_to_do() -> None:
    operator = MatrixOperator(torch.eye(3))
    with pytest.raises(ValueError, match=r"(?s)called 'kappa'.*percentile_10: largest over"):
        condition_number(operator, "kappa")
    with pytest.raises(ValueError, match="learning_rate > 0"):
        condition_number(operator, "learning_rate_product")
    with pytest.raises(ValueError, match="finite vector"):
        condition_number(torch.eye(3), "extreme_ratio")
