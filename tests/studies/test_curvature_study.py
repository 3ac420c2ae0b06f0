"""The whole report on one network's curvature, against the dense Hessian and against its parts."""

import math
from contextlib import contextmanager

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from dense_curvature import dense_gradient, dense_hessian, loss_of
from shortcut_nets import zero_point
from torch import nn

from gradscope.problem import Problem
from gradscope.studies.block_curvature import block_curvature
from gradscope.studies.curvature.exact import rounding
from gradscope.studies.curvature_reading import curvature_reading
from gradscope.studies.curvature_study import curvature_study

SMALL = {"probes": 3, "steps": 12, "k": 5}


def one(frame, quantity, definition=None):
    rows = frame[(frame["quantity"] == quantity) & frame["block"].isna() & frame["batch_size"].isna()]
    if definition is not None:
        rows = rows[rows["definition"] == definition]
    (row,) = rows.to_dict("records")
    return row


@pytest.mark.parametrize("dense_limit", [2000, 0], ids=["formed", "products"])
@pytest.mark.parametrize("case", ["plain", "batch norm train", "tied weights"])
def test_every_number_holds_the_dense_value(case, dense_limit):
    problem = CASES[case]()
    matrix, gradient = dense_hessian(problem), dense_gradient(problem)
    exact = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    trace, square = exact.sum().item(), exact.square().sum().item()
    frame = curvature_study(problem, dense_limit=dense_limit, learning_rate=0.3, **SMALL)
    expected = {
        "lambda_max": exact[-1].item(),
        "lambda_min": exact[0].item(),
        "trace": trace,
        "trace_of_square": square,
        "participation_ratio": trace**2 / square,
        "trace_over_lambda_max": trace / exact[-1].item(),
        "learning_rate_product": 0.3 * exact[-1].item(),
    }
    for quantity, value in expected.items():
        row = one(frame, quantity)
        slack = 1e-9 * abs(value)
        assert row["low"] - slack <= value <= row["high"] + slack, quantity
        if dense_limit:
            assert row["value"] == pytest.approx(value, rel=1e-9)
    assert one(frame, "loss")["value"] == pytest.approx(loss_of(problem).item(), rel=1e-12)
    assert one(frame, "gradient_norm")["value"] == pytest.approx(gradient.norm().item(), rel=1e-10)
    assert one(frame, "parameters")["value"] == len(matrix)
    for rank in (1, 5, -1, -5):
        (row,) = frame[(frame["quantity"] == "eigenvalue") & (frame["rank"] == rank)].to_dict("records")
        assert row["value"] == pytest.approx(exact[-rank if rank > 0 else -rank - 1].item(), rel=1e-3)
    ratio = one(frame, "condition_number", "top_ratio")
    assert ratio["low"] * (1 - 1e-9) <= (exact[-1] / exact[-5]).item() <= ratio["high"] * (1 + 1e-9)
    bare = frame[(frame["quantity"] == "condition_number") & frame["definition"].isna()]
    assert bare.empty


def test_a_formed_hessian_gives_the_exact_condition_numbers():
    problem, sigma = zero_point(4, 3, 3)
    frame = curvature_study(problem, **SMALL)
    whole = (sigma[0] / sigma[-1]).item()
    assert one(frame, "condition_number", "extreme_ratio")["value"] == pytest.approx(whole, rel=1e-9)
    assert one(frame, "share_negative")["value"] == 0.5
    assert one(frame, "trace")["value"] == pytest.approx(0, abs=1e-12)
    assert one(frame, "products")["value"] == 72
    sizes = torch.cat([sigma, sigma]).repeat(9).numpy()
    tenth = sizes.max() / torch.quantile(torch.from_numpy(sizes), 0.1).item()
    assert one(frame, "condition_number", "percentile_10")["value"] == pytest.approx(tenth, rel=1e-9)


def test_without_forming_it_only_a_lower_bound_is_given():
    frame = curvature_study(CASES["residual"](), dense_limit=0, **SMALL)
    assert set(frame["definition"].dropna()) == {
        "negative_ratio",
        "top_ratio",
        "bulk_edge_ratio",
        "kappa_lower",
        "kappa_resolved",
    }
    exact = torch.linalg.eigvalsh(dense_hessian(CASES["residual"]())).abs()
    bound = one(frame, "condition_number", "kappa_lower")
    assert 1 <= bound["value"] <= (exact.max() / exact.min().clamp(min=1e-300)).item()
    assert math.isinf(bound["high"])


@pytest.mark.parametrize("dense_limit", [2000, 0])
def test_weight_decay_gives_the_damped_number_of_the_loss(dense_limit):
    problem = CASES["plain"]()
    exact = torch.linalg.eigvalsh(dense_hessian(problem))
    frame = curvature_study(problem, weight_decay=0.2, dense_limit=dense_limit, **SMALL)
    row = one(frame, "condition_number", "damped")
    expected = (exact[-1].item() + 0.2) / (max(exact[0].item(), 0.0) + 0.2)
    assert row["value"] == pytest.approx(expected, rel=1e-6)
    assert one(frame, "lambda_max")["value"] == pytest.approx(exact[-1].item() + 0.2, rel=1e-6)


@pytest.mark.parametrize("dense_limit", [2000, 0])
def test_outliers_and_bulk_edge_follow_one_rule(dense_limit):
    """Least squares on a diagonal has the squares over N as eigenvalues: three, and a bulk below them."""
    scales = torch.tensor([9.0, 8.0, 7.0, *[0.5 - 0.02 * i for i in range(8)]], dtype=torch.float64)
    net = nn.Linear(11, 1, bias=False).double()
    problem = Problem(net, (torch.diag(scales), torch.ones(11, 1, dtype=torch.float64)), "half_squared_error")
    frame = curvature_study(problem, dense_limit=dense_limit, **(SMALL | {"k": 6}))
    assert one(frame, "outliers")["value"] == 3
    ratio = one(frame, "condition_number", "bulk_edge_ratio")
    assert ratio["low"] * (1 - 1e-9) <= (9 / 0.5) ** 2 <= ratio["high"] * (1 + 1e-9)


@pytest.mark.parametrize("dense_limit", [2000, 0])
def test_products_in_float32_give_the_same_to_rounding(dense_limit):
    exact = torch.linalg.eigvalsh(dense_hessian(CASES["residual"]()))
    problem = CASES["residual"]()
    problem.model.float()
    frame = curvature_study(problem, dense_limit=dense_limit, **SMALL)
    assert set(frame["dtype"]) == {"float32"}
    for quantity, value in (("lambda_max", exact[-1].item()), ("lambda_min", exact[0].item())):
        row = one(frame, quantity)
        assert row["value"] == pytest.approx(value, rel=1e-3)
        assert row["low"] - 1e-6 <= value <= row["high"] + 1e-6


def test_the_error_of_a_formed_matrix_is_that_of_its_products():
    """Eigenvalues of a matrix whose entries came in float32 are off by some eps of float32, not of float64."""
    spectrum = torch.linspace(-1, 2, 50, dtype=torch.float64)
    assert rounding(spectrum, torch.float32) == pytest.approx(20 * 2**-23, rel=1e-3)
    assert rounding(spectrum, torch.float64) == pytest.approx(60 * 2 * 2**-52, rel=1e-3)


def test_the_density_integrates_to_one():
    frame = curvature_study(CASES["plain"](), **SMALL)
    curve = frame[frame["quantity"] == "spectral_density"].sort_values("eigenvalue")
    area = torch.trapezoid(
        torch.tensor(curve["value"].to_numpy()), torch.tensor(curve["eigenvalue"].to_numpy())
    )
    assert area.item() == pytest.approx(1, abs=1e-3)


def test_conditions_stand_in_every_row():
    frame = curvature_study(CASES["batch norm train"](), weight_decay=0.1, seed=4, **SMALL)
    for column, value in {
        "batch_norm": "train",
        "weight_decay": "0.1",
        "examples": 9,
        "dtype": "float64",
        "seed": 4,
    }.items():
        assert set(frame[column]) == {value}


def test_blocks_and_minibatches_are_those_of_their_studies():
    problem = CASES["plain"]()
    frame = curvature_study(problem, by="layer", coupling=True, sizes=(3,), draws=2, **SMALL)
    alone = block_curvature(problem, "layer", max_products=500, accuracy=0.05, dense_limit=2000)
    for row in alone[alone["block"].notna() & alone["value"].notna()].to_dict("records"):
        same = frame[(frame["quantity"] == row["quantity"]) & (frame["block"] == row["block"])]
        if row["quantity"] == "coupling":
            same = same[same["other"] == row["other"]]
        (value,) = same["value"]
        assert value == pytest.approx(row["value"], rel=1e-9)
    batches = frame[(frame["quantity"] == "lambda_max") & (frame["batch_size"] == 3)]
    assert list(batches["draw"]) == [0, 1]
    runs = frame[(frame["quantity"] == "lambda_max") & frame["batch_size"].notna()]["products"].sum()
    size = one(frame, "parameters")["value"]
    assert one(frame, "products")["value"] == 2 * size + runs


def test_products_of_all_parts_are_counted():
    frame = curvature_study(CASES["plain"](), dense_limit=0, **SMALL)
    parts = [
        one(frame, "lambda_max")["products"],
        one(frame, "trace")["products"],
        one(frame, "absolute_trace")["products"],
    ]
    assert one(frame, "products")["value"] == sum(parts)
    assert one(frame, "seconds")["value"] > 0


def test_undefined_is_never_silent():
    problem, _ = zero_point(3, 3, 2, layers=3)
    frame = curvature_study(problem, learning_rate=0.1, by="layer", sizes=(10,), draws=2, **SMALL)
    undefined = frame[frame["value"].isna()]
    assert set(undefined["status"]) == {"undefined"}
    assert (undefined["reason"] != "").all()
    assert one(frame, "lambda_max")["value"] == 0


def test_progress_announces_the_cost(capsys):
    curvature_study(CASES["plain"](), dense_limit=0, max_products=20, progress=True, **SMALL)
    said = capsys.readouterr().err
    assert "curvature of 64 parameters, products of at most: 76/76" in said


@pytest.mark.parametrize("dense_limit", [2000, 0])
def test_progress_goes_product_by_product_and_ends_at_its_announcement(dense_limit, monkeypatch):
    steps: list[int] = []

    @contextmanager
    def told(_what, most, *, show):
        steps.append(-most)
        yield steps.append

    monkeypatch.setattr("gradscope.studies.curvature_study.shown_progress", told)
    curvature_study(CASES["plain"](), dense_limit=dense_limit, max_products=20, **SMALL)
    assert sum(steps) == 0 and len(steps) >= (2 if dense_limit else 20)


def test_the_model_is_as_found():
    problem = CASES["batch norm running"]()
    used(problem.model)
    before = snapshot(problem.model)
    curvature_study(problem, by="layer", sizes=(3,), draws=2, **SMALL)
    assert_as_found(problem.model, before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k >= 1"),
        ({"dense_limit": 5001}, "dense_limit <= 5000"),
        ({"accuracy": 1.0}, "accuracy < 1"),
        ({"learning_rate": -0.1}, "learning_rate > 0"),
        ({"momentum": 1.5}, "momentum lies in"),
        ({"k": 1.5}, "k is a whole number"),
        ({"probes": 1}, "probes >= 2, got 1"),
        ({"steps": 1}, "steps >= 2, got 1"),
        ({"draws": 0}, "draws >= 1"),
        ({"tolerance": 0}, "0 < tolerance"),
        ({"sizes": 16}, r"such as \(16,\)"),
        ({"sizes": (4, 10)}, "sizes of 1 to 7 examples"),
        ({"by": "floor"}, "floor"),
        ({"by": "layer", "precondition": torch.ones(64)}, "no blocks"),
        ({"nesterov": True, "precondition": torch.ones(64)}, "no limit for Nesterov"),
    ],
    ids=str,
)
def test_bad_options_are_told_before_any_product(options, sentence, monkeypatch):
    def measured(*_args, **_options):
        raise AssertionError("something was measured")

    monkeypatch.setattr("gradscope.curvature.problem_operator.ProblemOperator._apply", measured)
    monkeypatch.setattr("gradscope.studies.curvature_study.loss_and_gradient", measured)
    with pytest.raises(ValueError, match=sentence):
        curvature_study(CASES["plain"](), **(SMALL | options))


def test_shares_and_sums_of_a_formed_hessian_are_counted_not_estimated():
    problem = CASES["plain"]()
    exact = torch.linalg.eigvalsh(dense_hessian(problem))
    frame = curvature_study(problem, **(SMALL | {"steps": 30}))
    threshold = one(frame, "negative_share")["threshold"]
    expected = {
        "share_negative": (exact < -1e-12).double().mean(),
        "negative_share": (exact < -threshold).double().mean(),
        "share_above": (exact.abs() > threshold).double().mean(),
        "absolute_trace": exact.abs().sum(),
    }
    for name, value in expected.items():
        row = one(frame, name)
        assert row["status"] == "ok" and row["value"] == pytest.approx(value.item(), rel=1e-12)
        assert row["low"] <= row["value"] <= row["high"] < row["value"] + 0.2
    assert expected["share_negative"] > expected["negative_share"] > 0
    assert one(frame, "share_above")["threshold"] == threshold > 0
    assert set(curvature_study(problem, dense_limit=0, **SMALL)["quantity"]) >= set(expected) - {
        "share_negative"
    }


def test_a_loader_that_shuffles_batches_with_statistics_is_refused_as_by_hessian():
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3
    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=4, shuffle=True)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="the DataLoader shuffles"):
        curvature_study(Problem(model, loader, batch_norm="train"), **SMALL)
    assert set(curvature_study(Problem(model, list(loader), batch_norm="train"), **SMALL)["batch_norm"])


@pytest.mark.parametrize("dense_limit", [2000, 0])
def test_a_preconditioned_study_is_of_that_hessian_and_has_adams_limit(dense_limit):
    problem = CASES["plain"]()
    matrix = dense_hessian(problem)
    diagonal = torch.linspace(0.5, 2, len(matrix), dtype=torch.float64)
    exact = torch.linalg.eigvals((matrix + 0.1 * torch.eye(len(matrix))) / diagonal[:, None]).real
    about = {"precondition": diagonal, "weight_decay": 0.1, "learning_rate": 1e-3, "momentum": 0.9}
    frame = curvature_study(problem, dense_limit=dense_limit, **about, **SMALL)
    assert one(frame, "lambda_max")["value"] == pytest.approx(exact.max().item(), rel=1e-6)
    assert one(frame, "trace")["value"] == pytest.approx(exact.sum().item(), rel=1e-6 if dense_limit else 0.2)
    assert one(frame, "stability_limit")["value"] == pytest.approx(38)
    without_rate = frame[~frame["quantity"].isin(("learning_rate_product", "stability_limit"))]
    assert "divides by the same diagonal, without momentum, is stable" in curvature_reading(without_rate)
    assert "damped" not in set(frame["definition"]) and set(frame["precondition"]) == {"diagonal"}
