"""Curvature by blocks, against dense Hessians cut into blocks and against the zero point of 2-shortcut nets."""

import math
from itertools import combinations

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from dense_curvature import dense_gradient, dense_hessian
from shortcut_nets import zero_point

from gradscope.curvature.problem_operator import ProblemOperator
from gradscope.studies.block_curvature import block_curvature

LAYERS = {"0": slice(0, 25), "2": slice(25, 49), "4": slice(49, 64)}


def table(frame):
    """Rows by (block, other, quantity)."""
    return {
        (row["block"], None if row["other"] != row["other"] else row["other"], row["quantity"]): row
        for row in frame.to_dict("records")
    }


def expected_of(matrix):
    values = torch.linalg.eigvalsh(matrix)
    square = values.square().sum()
    top = values[values.abs().argmax()]
    return {
        "lambda_max": values[-1],
        "lambda_min": values[0],
        "trace": matrix.diagonal().sum(),
        "trace_of_square": matrix.square().sum(),
        "participation_ratio": matrix.diagonal().sum() ** 2 / square,
        "top_share": top**2 / square,
    }


@pytest.mark.parametrize("dense_limit", [1000, 0], ids=["whole formed", "blocks formed"])
def test_blocks_and_couplings_match_the_dense_hessian(dense_limit):
    problem = CASES["plain"]()
    matrix, gradient = dense_hessian(problem), dense_gradient(problem)
    rows = table(block_curvature(problem, dense_limit=dense_limit, tolerance=1e-7))
    for name, cut in LAYERS.items():
        for quantity, value in expected_of(matrix[cut, cut]).items():
            row = rows[name, None, quantity]
            assert row["value"] == pytest.approx(value.item(), rel=1e-6, abs=1e-12)
            assert row["low"] - 1e-9 <= value.item() <= row["high"] + 1e-9
            assert row["status"] == "ok"
        assert rows[name, None, "gradient_norm"]["value"] == pytest.approx(gradient[cut].norm().item())
        assert rows[name, None, "parameters"]["value"] == cut.stop - cut.start
        assert rows[name, None, "kappa_lower"]["value"] <= rows[name, None, "extreme_ratio"]["value"]
    for one, other in combinations(LAYERS, 2):
        norm = torch.linalg.matrix_norm(matrix[LAYERS[one], LAYERS[other]], ord=2).item()
        row = rows[one, other, "coupling"]
        assert row["value"] == pytest.approx(norm, rel=1e-6)
        assert row["low"] - 1e-12 <= norm <= row["high"] + 1e-12


def test_estimates_hold_the_dense_values():
    problem = CASES["plain"]()
    matrix = dense_hessian(problem)
    frame = block_curvature(problem, dense_limit=0, max_products=14, accuracy=0.2, pairs="neighbours")
    rows = table(frame)
    for name, cut in LAYERS.items():
        values = torch.linalg.eigvalsh(matrix[cut, cut])
        for quantity, value in (("lambda_max", values[-1]), ("lambda_min", values[0])):
            row = rows[name, None, quantity]
            assert row["low"] - 1e-12 <= value.item() <= row["high"] + 1e-12
        smallest, largest = values.abs().min().item(), values.abs().max().item()
        bound = rows[name, None, "kappa_lower"]["value"]
        assert bound <= largest / max(smallest, 1e-300)
        assert rows[name, None, "extreme_ratio"]["status"] == "undefined"
        assert 0 < rows[name, None, "top_share"]["value"] <= 1
    assert {(one, other) for one, other, quantity in rows if other} == {("0", "2"), ("2", "4")}
    assert (frame["products"] <= 28).all()


def test_intervals_of_estimated_top_shares_hold_the_truth():
    problem = CASES["residual"]()
    matrix = dense_hessian(problem)
    # The Hessian's first 31 parameters are those of the first block.
    truth = expected_of(matrix[:31, :31])["top_share"].item()
    held = []
    for seed in range(12):
        frame = block_curvature(
            problem, "block", False, parameters="0.*", dense_limit=0, max_products=24, accuracy=0.3, seed=seed
        )
        row = frame[frame["quantity"] == "top_share"].iloc[0]
        held.append(row["low"] <= truth <= row["high"])
    assert sum(held) >= 10


@pytest.mark.parametrize("dense_limit", [1000, 0], ids=["formed", "products"])
@pytest.mark.parametrize(("width", "inner", "count"), [(3, 2, 2), (4, 4, 3)])
def test_the_zero_point_couples_only_the_two_layers_of_a_block(width, inner, count, dense_limit):
    """Every layer's block is zero, and ||H_ab|| is sigma_max(G) between W1 and W2 of one block, zero elsewhere (T6)."""
    problem, sigma = zero_point(width, inner, count)
    rows = table(block_curvature(problem, dense_limit=dense_limit, tolerance=1e-9))
    layers = [f"{block}.branch.{place}" for block in range(count) for place in (0, 1)]
    for name in layers:
        for quantity in ("lambda_max", "lambda_min", "trace", "gradient_norm"):
            assert rows[name, None, quantity]["value"] == pytest.approx(0, abs=1e-14)
        assert rows[name, None, "participation_ratio"]["status"] == "undefined"
        assert rows[name, None, "extreme_ratio"]["status"] == "undefined"
    for one, other in combinations(layers, 2):
        expected = sigma[0].item() if one.split(".")[0] == other.split(".")[0] else 0.0
        assert rows[one, other, "coupling"]["value"] == pytest.approx(expected, abs=1e-12, rel=1e-9)


def test_each_residual_block_has_the_condition_number_of_the_whole():
    problem, sigma = zero_point(4, 3, 3)
    exact = torch.linalg.eigvalsh(dense_hessian(problem)).abs()
    whole = (exact.max() / exact.min()).item()
    assert whole == pytest.approx((sigma[0] / sigma[-1]).item(), rel=1e-9)
    rows = table(block_curvature(problem, "block"))
    blocks = sorted({block for block, _, quantity in rows if quantity == "lambda_max"})
    assert len(blocks) == 3
    for name in blocks:
        assert rows[name, None, "extreme_ratio"]["value"] == pytest.approx(whole, rel=1e-9)
        assert rows[name, None, "lambda_max"]["value"] == pytest.approx(sigma[0].item(), rel=1e-12)
        assert rows[name, None, "trace"]["value"] == pytest.approx(0, abs=1e-12)
    for one, other in combinations(blocks, 2):
        assert rows[one, other, "coupling"]["value"] == pytest.approx(0, abs=1e-14)


def test_weight_decay_is_on_the_diagonal_only():
    problem = CASES["plain"]()
    plain, shifted = (table(block_curvature(problem, weight_decay=decay)) for decay in (0.0, 0.5))
    for key, row in plain.items():
        if key[2] in ("lambda_max", "lambda_min"):
            assert shifted[key]["value"] == pytest.approx(row["value"] + 0.5)
        if key[2] == "coupling":
            assert shifted[key]["value"] == pytest.approx(row["value"])


def test_pairs_by_name_and_groups_by_mapping():
    groups = {"first": "0", "rest": ["2", "4"]}
    frame = block_curvature(CASES["plain"](), groups, pairs=[("rest", "first")])
    assert set(frame["by"]) == {"mapping"}
    coupled = frame[frame["quantity"] == "coupling"]
    assert list(zip(coupled["block"], coupled["other"], strict=True)) == [("rest", "first")]
    without = block_curvature(CASES["plain"](), coupling=False)
    assert "coupling" not in set(without["quantity"])


def test_tied_weights_are_one_block():
    problem = CASES["tied weights"]()
    matrix = dense_hessian(problem)
    frame = block_curvature(problem)
    sizes = frame[frame["quantity"] == "parameters"].set_index("block")["value"]
    assert sizes.sum() == len(matrix)
    top = frame[(frame["quantity"] == "lambda_max") & (frame["block"] == "first")]["value"].iloc[0]
    assert top == pytest.approx(torch.linalg.eigvalsh(matrix[:20, :20])[-1].item(), rel=1e-9)


@pytest.mark.parametrize(("dense_limit", "max_products"), [(1000, 30), (0, 30), (0, 14)])
def test_all_products_are_counted(monkeypatch, dense_limit, max_products):
    counted = []
    apply = ProblemOperator._apply

    def counting(operator, rows):
        counted.append(len(rows))
        return apply(operator, rows)

    monkeypatch.setattr(ProblemOperator, "_apply", counting)
    frame = block_curvature(CASES["plain"](), dense_limit=dense_limit, max_products=max_products)
    (total,) = frame[frame["quantity"] == "products"]["value"]
    assert total == sum(counted)


def test_progress_counts_blocks_and_pairs(capsys):
    block_curvature(CASES["plain"](), progress=True)
    assert "curvature of 3 blocks and 3 pairs: 6/6" in capsys.readouterr().err


@pytest.mark.parametrize("dense_limit", [1000, 0])
def test_the_model_is_as_found(dense_limit):
    problem = CASES["batch norm running"]()
    used(problem.model)
    before = snapshot(problem.model)
    block_curvature(problem, dense_limit=dense_limit)
    assert_as_found(problem.model, before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pairs": "some"}, "pairs is 'all', 'neighbours' or pairs of two different blocks"),
        ({"pairs": [("0", "9")]}, "pairs of two different blocks of 0, 2, 4"),
        ({"pairs": [("0", "0")]}, "pairs of two different blocks"),
        ({"by": "colour"}, "by is one of"),
        ({"dense_limit": -1}, "dense_limit >= 0"),
        ({"max_products": 3}, "max_products >= 4"),
        ({"accuracy": 0.0}, "0 < accuracy < 1"),
    ],
    ids=str,
)
def test_bad_options_are_told(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        block_curvature(CASES["plain"](), **options)


def test_undefined_is_never_silent():
    problem, _ = zero_point(3, 2, 1)
    frame = block_curvature(problem)
    undefined = frame[frame["value"].isna()]
    assert set(undefined["status"]) == {"undefined"}
    assert (undefined["reason"] != "").all()
    assert not frame[frame["status"] == "ok"]["value"].map(math.isnan).any()
