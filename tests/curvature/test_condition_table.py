"""The table of all condition numbers against each definition asked for by itself, and the dense spectrum."""

import numpy
import pandas
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from curvature_matrices import MATRICES

import gradscope as gs
from gradscope.curvature import MatrixOperator, condition_number, hessian
from gradscope.curvature.condition_definitions import DEFINITIONS

RATES = {"learning_rate": 0.1, "damping": 0.05}


def by_name(frame: pandas.DataFrame) -> dict[str, pandas.Series]:
    return {row["definition"]: row for _, row in frame.iterrows()}


def test_every_definition_says_what_it_is_for_and_what_it_takes() -> None:
    frame = gs.condition_numbers(MatrixOperator(MATRICES["indefinite"]), **RATES)
    assert list(frame["definition"]) == list(DEFINITIONS)
    for name, row in by_name(frame).items():
        assert (row["use"], row["needs"]) == (DEFINITIONS[name].use, DEFINITIONS[name].needs)
        assert all((row["use"], row["needs"], DEFINITIONS[name].meaning))
    assert set(frame["unit"]) == {"1"}


@pytest.mark.parametrize("name", MATRICES)
def test_the_dense_spectrum_decides_what_it_can(name: str) -> None:
    matrix = MATRICES[name]
    rows = by_name(gs.condition_numbers(MatrixOperator(matrix), **RATES, max_products=20))
    spectrum = torch.linalg.eigvalsh(matrix)
    for definition in DEFINITIONS:
        if definition.startswith("kappa"):
            given: object = MatrixOperator(matrix)
        else:
            given = spectrum
        (one,) = condition_number(given, definition, **RATES, max_products=20).to_dict("records")
        if numpy.isfinite(one["value"]) and one["value"] < 1e10:
            assert rows[definition]["value"] == pytest.approx(one["value"], rel=1e-6)
        assert rows[definition]["status"] == one["status"]


def test_a_network() -> None:
    operator = hessian(CASES["residual"]())
    frame = gs.condition_numbers(operator, **RATES)
    sizes = torch.linalg.eigvalsh(operator.dense()).abs().numpy()
    rows = by_name(frame)
    assert rows["percentile_10"]["value"] == float(
        "inf"
    )  # the loss does not see a common shift of all outputs
    descending = torch.linalg.eigvalsh(operator.dense()).flip(0)
    assert rows["top_ratio"]["value"] == pytest.approx(float(descending[0] / descending[4]), rel=1e-6)
    assert rows["kappa_lower"]["value"] <= sizes.max() / sizes.min()
    assert rows["gauss_newton_damped"]["status"] == "undefined"
    assert set(frame["products"]) == {2 * operator.shape[0]}  # the run exhausts the space
    assert list(frame.columns[: len(operator.conditions)]) == list(operator.conditions)


def test_two_runs_serve_all() -> None:
    operator = MatrixOperator(MATRICES["outliers and bulk"])
    frame = gs.condition_numbers(operator, max_products=25, dense=False)
    assert 25 < operator.products <= 50
    assert set(frame["products"]) == {operator.products}
    rows = by_name(frame)
    for definition, what in (
        ("extreme_ratio", "pass dense=True"),
        ("percentile_10", "pass dense=True"),
        ("learning_rate_product", "pass learning_rate="),
        ("damped", "pass damping="),
    ):
        assert rows[definition]["status"] == "undefined"
        assert what in rows[definition]["reason"]
    assert "25 products" in rows["kappa_lower"]["reason"]
    small = gs.condition_numbers(operator, max_products=25, max_basis_bytes=20 * 100 * 8, dense=False)
    assert "20 products" in by_name(small)["kappa_lower"]["reason"]


def test_intervals_hold_the_true_values_before_convergence() -> None:
    for matrix in MATRICES.values():
        spectrum = torch.linalg.eigvalsh(matrix)
        exact = by_name(gs.condition_numbers(MatrixOperator(matrix), **RATES))
        for products in (5, 10, 20):
            frame = gs.condition_numbers(MatrixOperator(matrix), **RATES, max_products=products, dense=False)
            for definition, row in by_name(frame).items():
                if row["status"] != "ok" or definition in ("kappa_resolved", "bulk_edge_ratio"):
                    continue
                true = exact[definition]["value"]
                if definition == "kappa_lower":
                    true = float(spectrum.abs().max() / spectrum.abs().min())
                assert row["low"] * (1 - 1e-9) <= true <= row["high"] * (1 + 1e-9), definition


def test_the_model_is_left_as_found() -> None:
    problem = CASES["batch norm train"]()
    model = used(problem.model)
    before = snapshot(model)
    gs.condition_numbers(hessian(problem), max_products=5, dense=False)
    assert_as_found(model, before)


def test_bad_requests_say_what_to_do() -> None:
    operator = MatrixOperator(torch.eye(3))
    with pytest.raises(ValueError, match="learning_rate > 0 is needed, got 0"):
        gs.condition_numbers(operator, learning_rate=0)
    with pytest.raises(ValueError, match="room for a vector of 12 bytes"):
        gs.condition_numbers(operator, max_basis_bytes=8)


def test_the_fifth_is_the_fifth_also_within_a_bulk_and_among_copies() -> None:
    """A value that has converged within a bulk may be the sixth, and one run sees one copy: a second start tells."""
    normal = torch.randn(60, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    spectra = [
        torch.cat([torch.tensor([100.0], dtype=torch.float64), 0.01 * normal.abs()]),
        torch.cat([torch.full((5,), 3.0, dtype=torch.float64), normal / 4]),
    ]
    for values in spectra:
        ordered = values.sort(descending=True).values
        truth = float(ordered[0] / ordered[4])
        for products in (12, 40):
            for seed in range(6):
                frame = gs.condition_numbers(
                    MatrixOperator(torch.diag(values)), max_products=products, dense=False, seed=seed
                )
                row = by_name(frame)["top_ratio"]
                held = row["low"] * (1 - 1e-9) <= truth <= row["high"] * (1 + 1e-9)
                assert row["status"] != "ok" or held
