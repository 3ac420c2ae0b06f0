"""Condition numbers against their definitions, written out on the dense spectrum."""

from itertools import pairwise

import numpy
import pytest
import torch
from cases import CASES
from curvature_matrices import MATRICES
from shortcut_nets import zero_point

from gradscope.curvature import (
    Lanczos,
    MatrixOperator,
    condition_number,
    condition_numbers,
    extreme_eigenvalues,
    hessian,
)
from gradscope.curvature.condition import DEFINITIONS
from gradscope.curvature.condition_bounds import kappa_resolved, lower_bound
from gradscope.curvature.condition_evidence import of_run


def spectrum(case: str) -> numpy.ndarray:
    return torch.linalg.eigvalsh(hessian(CASES[case]()).dense()).numpy()


EXPECTED = {
    "extreme_ratio": lambda values: abs(values).max() / abs(values).min(),
    "percentile_10": lambda values: abs(values).max() / numpy.percentile(abs(values), 10),
    "negative_ratio": lambda values: abs(values.min()) / values.max(),
    "top_ratio": lambda values: numpy.sort(values)[-1] / numpy.sort(values)[-5],
    "learning_rate_product": lambda values: 0.1 * values.max(),
    "damped": lambda values: (values.max() + 0.05) / (max(values.min(), 0) + 0.05),
    "gauss_newton_damped": lambda values: (values.max() + 0.05) / (values.min() + 0.05),
}
SEMIDEFINITE = ("gauss_newton_damped",)
RATES = {"learning_rate": 0.1, "damping": 0.05}


@pytest.mark.parametrize("definition", EXPECTED)
def test_definitions_on_a_known_spectrum(definition: str) -> None:
    values = numpy.array([-3.0, -0.5, 0.1, 0.25, 1.0, 2.0, 4.0, 8.0])
    values = abs(values) if definition in SEMIDEFINITE else values
    expected = EXPECTED[definition](values)
    for given in (MatrixOperator(torch.diag(torch.tensor(values))), torch.tensor(values), values):
        (row,) = condition_number(given, definition, **RATES, tolerance=1e-10).to_dict("records")
        assert abs(row["value"] - expected) < 1e-9 * expected
        assert row["low"] <= expected <= row["high"]
        assert (row["quantity"], row["definition"], row["status"]) == ("condition_number", definition, "ok")


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("definition", EXPECTED)
def test_definitions_on_the_table_of_matrices(definition: str, name: str) -> None:
    """Where a value is given, the true one lies in its interval, however few products there were."""
    matrix = MATRICES[name]
    spectrum = torch.linalg.eigvalsh(matrix).numpy()
    expected = EXPECTED[definition](spectrum) if abs(spectrum).min() > 1e-12 else float("inf")
    if definition not in ("extreme_ratio", "percentile_10"):
        expected = EXPECTED[definition](spectrum)
    for products in (6, 15, 60):
        operator = MatrixOperator(matrix)
        (row,) = condition_number(operator, definition, **RATES, max_products=products).to_dict("records")
        if row["status"] == "ok":
            assert row["low"] * (1 - 1e-9) <= expected <= row["high"] * (1 + 1e-9)
            assert row["low"] <= row["value"] <= row["high"]
        else:
            assert row["reason"]
    if definition in SEMIDEFINITE and spectrum.min() < -1e-6:
        assert "is negative: pass a Gauss-Newton operator" in row["reason"]


@pytest.mark.parametrize("definition", ["negative_ratio", "top_ratio", "learning_rate_product", "damped"])
def test_operator_and_frame_of_eigenvalues_agree_with_the_dense_spectrum(definition: str) -> None:
    operator = hessian(CASES["residual"]())
    frame = extreme_eigenvalues(operator, 5, tolerance=1e-6)
    expected = EXPECTED[definition](spectrum("residual"))
    for given in (operator, frame):
        (row,) = condition_number(given, definition, **RATES, tolerance=1e-6).to_dict("records")
        assert abs(row["value"] - expected) < 1e-5 * expected
        assert row["low"] <= expected <= row["high"]


def test_damping_bounds_a_singular_semidefinite_operator() -> None:
    """lambda_min = 0 never converges, yet the number lies between what was seen and (lambda_max + d) / d."""
    factor = torch.randn(80, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = factor @ factor.T / 20 + torch.diag(torch.linspace(0, 1e-3, 80, dtype=torch.float64))
    spectrum = torch.linalg.eigvalsh(matrix).numpy()
    for damping, products in ((1.0, 15), (0.05, 15), (1e-4, 10), (1e-4, 40)):
        expected = (spectrum.max() + damping) / (spectrum.min() + damping)
        (row,) = condition_number(
            MatrixOperator(matrix), "gauss_newton_damped", damping=damping, max_products=products
        ).to_dict("records")
        assert row["low"] * (1 - 1e-9) <= expected <= row["high"] * (1 + 1e-9)
        assert row["status"] == ("ok" if row["high"] <= 1.1 * row["low"] else "unconverged")


BULK = torch.cat([torch.tensor([20.0, 12.0, 9.0]), torch.linspace(1.0, -0.5, 200)]).double()


def test_the_bulk_begins_below_the_widest_gap() -> None:
    for given in (
        BULK,
        MatrixOperator(torch.diag(BULK)),
        extreme_eigenvalues(MatrixOperator(torch.diag(BULK)), 9),
    ):
        (row,) = condition_number(given, "bulk_edge_ratio").to_dict("records")
        assert abs(row["value"] - 20) < 1e-3
        assert row["low"] <= 20 <= row["high"]
        assert row["reason"].startswith("3 outliers, a gap of a factor 9")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (1.5 ** -torch.arange(40.0), "no gap of a factor 2"),
        (torch.tensor([9.0, 1.0, 0.9]), "no gap of a factor 2 with 3 eigenvalues below"),
        (-torch.arange(1.0, 9.0), "is not positive"),
        (torch.linspace(-1, 1, 50), "the widest has"),
    ],
)
def test_without_a_gap_the_bulk_has_no_edge(values: torch.Tensor, reason: str) -> None:
    (row,) = condition_number(values.double(), "bulk_edge_ratio").to_dict("records")
    assert (row["status"], numpy.isnan(row["value"])) == ("undefined", True)
    assert reason in row["reason"]


def test_the_resolved_spread_is_that_of_true_eigenvalues() -> None:
    for name, matrix in MATRICES.items():
        exact = torch.linalg.eigvalsh(matrix).abs().numpy()
        for products in (5, 15, 40):
            (row,) = condition_number(
                MatrixOperator(matrix), "kappa_resolved", max_products=products
            ).to_dict("records")
            if row["status"] == "undefined":
                continue
            numbers = exact[exact > 1e-13 * exact.max()]
            ratios = numbers.max() / numbers
            assert ((row["low"] * (1 - 1e-6) <= ratios) & (ratios <= row["high"] * (1 + 1e-6))).any(), name
            assert "Ritz values resolved" in row["reason"]
            (bound,) = condition_number(MatrixOperator(matrix), "kappa_lower", max_products=products).to_dict(
                "records"
            )
            assert bound["value"] <= exact.max() / max(exact.min(), 1e-300) * (1 + 1e-6)


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
    (row,) = condition_number(operator, definition, **RATES).to_dict("records")
    if definition == "learning_rate_product":
        assert row["value"] == 0
    elif "damped" in definition:
        assert row["value"] == 1
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
        (torch.tensor([3.0, 1.0]), "kappa_resolved", "pass the operator"),
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
    with pytest.raises(ValueError, match="damped needs damping > 0"):
        condition_number(operator, "damped")
    with pytest.raises(ValueError, match="damping > 0 is needed, got -1"):
        condition_number(operator, "gauss_newton_damped", damping=-1.0)
    with pytest.raises(ValueError, match="finite vector"):
        condition_number(torch.eye(3), "extreme_ratio")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nothing_is_divided_by_an_eigenvalue_that_may_be_zero(sign: float) -> None:
    """Rank-one operators by products: their fifth eigenvalue, or that of the other sign, is rounding."""
    for seed in range(8):
        vector = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        operator = MatrixOperator(sign * torch.outer(vector, vector))
        rows = condition_numbers(operator, dense=False, seed=seed).set_index("definition")
        for definition in ("top_ratio", "negative_ratio", "bulk_edge_ratio"):
            row = rows.loc[definition]
            if (definition, sign) == ("negative_ratio", 1.0):
                assert abs(row["value"]) < 1e-12
            else:
                assert row["status"] == "undefined"
                assert numpy.isnan(row["value"])
                assert "eigenvalue" in row["reason"]


def test_the_damped_interval_reaches_to_both_ends_of_the_smallest() -> None:
    """From lambda_max at its lowest over lambda_min at its highest, to the other way round."""
    frame = extreme_eigenvalues(MatrixOperator(torch.diag(torch.tensor([4.0, 2.0, 1.0]).double())), 1)
    frame["low"], frame["high"] = frame["value"] - 0.5, frame["value"] + 0.5
    (row,) = condition_number(frame, "damped", damping=1.0).to_dict("records")
    assert (row["value"], row["low"], row["high"]) == pytest.approx((5 / 2, 4.5 / 2.5, 5.5 / 1.5))


def test_what_is_not_resolved_to_a_tenth_does_not_count() -> None:
    """After few steps the values within a bulk have residuals of their own size."""
    values = torch.cat([torch.tensor([10.0]), torch.linspace(-1, 1, 100)]).double()
    evidence = of_run(MatrixOperator(torch.diag(values)), 8, 0, 1e-3)
    ritz, residuals = evidence.run.ritz()
    kept = numpy.abs(ritz)[residuals < 0.1 * numpy.abs(ritz)]
    assert len(kept) < (residuals < 0.9 * numpy.abs(ritz)).sum()
    assert kappa_resolved(evidence).value == pytest.approx(kept.max() / kept.min())


def test_a_run_through_the_whole_space_bounds_the_number_from_above() -> None:
    for values in ([2.0], [3.0, 3.0, -1.0, 0.5]):
        operator = MatrixOperator(torch.diag(torch.tensor(values, dtype=torch.float64)))
        (row,) = condition_number(operator, "kappa_lower").to_dict("records")
        kappa = max(map(abs, values)) / min(map(abs, values))
        assert row["low"] <= kappa <= row["high"] < kappa * (1 + 1e-9)
        assert "of all eigenvalues" in row["reason"]


def test_the_bound_counts_what_a_second_start_dropped() -> None:
    """A run that keeps vectors with residuals of a tenth, and starts anew: T alone says too little of |A Q w|."""
    values = torch.cat([torch.tensor([10.0, 8.0]), torch.linspace(-1, 1, 60)]).double()
    run = Lanczos(MatrixOperator(torch.diag(values)), seed=1)
    for _ in range(5):
        run.step()
    keep = numpy.zeros(run.size, dtype=bool)
    keep[-2:] = True
    run = run.renewed(keep)
    for _ in range(4):
        run.step()
    short = 0
    for weights in numpy.eye(run.size):
        vector = run.kept_vectors(list(range(run.size)))[int(weights.argmax())]
        true = float((values * vector).norm())
        short += true > numpy.linalg.norm(run.extended() @ weights) * (1 + 1e-9)
        assert true <= run.image_length(weights)
    assert short >= 1
    assert lower_bound(run) <= float(values.abs().max() / values.abs().min())
