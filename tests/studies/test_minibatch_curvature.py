"""Eigenvalues of minibatches beside those of all examples: dense references and Jensen's inequality."""

import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES, batch_norm_net, classes, plain_net
from dense_curvature import dense_hessian

from gradscope.problem import Problem
from gradscope.studies.minibatch_curvature import mean_interval, minibatch_curvature


def specimen(examples=24, reduction="mean", batch_norm="auto", net=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = classes(net or plain_net(), 4, sizes=(examples - 8, 8), batch_norm=batch_norm)
    return Problem(made.model, list(made.data), reduction=reduction, batch_norm=batch_norm)


def all_examples(problem):
    parts = list(problem.batches())
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def extremes(problem):
    values = torch.linalg.eigvalsh(dense_hessian(problem))
    return float(values[-1]), float(values[0])


def test_each_batch_and_the_whole_match_dense_hessians():
    problem = specimen()
    inputs, targets = all_examples(problem)
    frame = minibatch_curvature(problem, (4, 12), 2, tolerance=1e-8, seed=5)
    whole = frame[(frame["batch_size"] == 24) & frame["draw"].isna()].set_index("quantity")["value"]
    assert tuple(whole[["lambda_max", "lambda_min"]]) == pytest.approx(extremes(problem), rel=1e-6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    for size in (4, 12):
        for draw in (0, 1):
            rows = order[draw * size : (draw + 1) * size]
            expected = extremes(Problem(problem.model, (inputs[rows], targets[rows])))
            found = frame[(frame["batch_size"] == size) & (frame["draw"] == draw)].set_index("quantity")
            assert tuple(found["value"][["lambda_max", "lambda_min"]]) == pytest.approx(expected, rel=1e-6)


def test_batches_that_make_up_the_data_are_biased_outwards():
    """Jensen: the mean of the largest eigenvalues is at least that of the mean, if batches make up the data."""
    frame = minibatch_curvature(specimen(), (2, 4, 8), 24)
    values = frame[frame["draw"].isna()].set_index("quantity")
    for name in ("lambda_max", "lambda_min"):
        ratios = values.loc[f"{name}_ratio"].sort_values("batch_size")
        assert (ratios["value"] >= 1 - 1e-3).all()
        assert list(ratios["n"]) == [12, 6, 3]
        assert ratios["value"].iloc[0] > ratios["value"].iloc[-1] > 1


def test_ratios_are_means_with_students_interval():
    frame = minibatch_curvature(specimen(), (4,), 5, ends="largest")
    tops = frame[frame["draw"].notna()]["value"].to_numpy()
    (whole,) = frame[(frame["quantity"] == "lambda_max") & frame["draw"].isna()]["value"]
    (ratio,) = frame[frame["quantity"] == "lambda_max_ratio"].to_dict("records")
    ratios = tops / whole
    half = 2.7764451052 * ratios.std(ddof=1) / math.sqrt(5)
    assert ratio["value"] == pytest.approx(ratios.mean())
    assert (ratio["low"], ratio["high"]) == pytest.approx((ratios.mean() - half, ratios.mean() + half))
    assert ratio["products"] == frame[frame["draw"].notna()]["products"].sum()
    assert "lambda_min" not in set(frame["quantity"])


def test_the_interval_covers_the_mean():
    generator = torch.Generator().manual_seed(0)
    draws = 2 + torch.randn(1000, 5, generator=generator, dtype=torch.float64)
    held = [low <= 2 <= high for _, low, high in map(mean_interval, draws)]
    assert 0.93 < sum(held) / 1000 < 0.97


def test_one_batch_and_too_few_are_told():
    frame = minibatch_curvature(specimen(), (10, 20), 5, ends="largest")
    rows = frame[frame["quantity"] == "lambda_max_ratio"].set_index("batch_size")
    assert rows.loc[10, "n"] == 2
    assert rows.loc[10, "reason"] == "only 2 disjoint batches of 10 examples"
    assert rows.loc[20, "reason"].startswith("one batch gives no interval")
    assert math.isnan(rows.loc[20, "low"])
    assert rows.loc[20, "status"] == "unconverged"


def test_all_examples_are_no_draw():
    frame = minibatch_curvature(specimen(), (24,), 3, ends="largest")
    (row,) = frame[frame["quantity"] == "lambda_max_ratio"].to_dict("records")
    assert (row["value"], row["low"], row["high"]) == pytest.approx((1, 1, 1))
    assert (row["status"], "all examples" in row["reason"]) == ("ok", True)


def test_a_whole_without_negative_curvature_has_no_ratio_of_smallest():
    problem = CASES["half squared error"]()
    for layer in (problem.model[0], problem.model[2]):
        layer.requires_grad_(False)
    frame = minibatch_curvature(problem, (3,), 2)
    (row,) = frame[frame["quantity"] == "lambda_min_ratio"].to_dict("records")
    assert row["status"] == "undefined"
    assert "not negative beyond its residual" in row["reason"]


def test_unconverged_values_are_told():
    frame = minibatch_curvature(specimen(), (8,), 2, ends="largest", max_products=5)
    assert set(frame["status"]) == {"unconverged"}
    (row,) = frame[frame["quantity"] == "lambda_max_ratio"].to_dict("records")
    assert row["reason"] == "3 of its eigenvalues have not converged"


@pytest.mark.parametrize("mode", ["frozen", "train"])
def test_batches_of_batch_norm_are_normalised_by_their_own(mode):
    problem = specimen(net=batch_norm_net(calibrated=False), batch_norm=mode)
    inputs, targets = all_examples(problem)
    frame = minibatch_curvature(problem, (20,), 1, ends="largest", tolerance=1e-8)
    rows = torch.randperm(24, generator=torch.Generator().manual_seed(0))[:20]
    expected, _ = extremes(Problem(problem.model, (inputs[rows], targets[rows]), batch_norm=mode))
    assert set(frame["batch_norm"]) == {mode}
    (found,) = frame[frame["draw"] == 0]["value"]
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_model_is_as_found():
    problem = specimen(net=batch_norm_net(calibrated=True), batch_norm="running")
    used(problem.model)
    before = snapshot(problem.model)
    minibatch_curvature(problem, (4,), 2)
    assert_as_found(problem.model, before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sizes": (25,)}, "sizes of 1 to 24 examples"),
        ({"sizes": ()}, "sizes of 1 to 24 examples"),
        ({"draws": 0}, "draws >= 1"),
        ({"ends": "top"}, "ends one of both, largest, smallest"),
    ],
    ids=str,
)
def test_bad_options_are_told(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        minibatch_curvature(specimen(), **({"sizes": (4,)} | options))


def test_sums_are_refused():
    with pytest.raises(ValueError, match="Use reduction='mean'"):
        minibatch_curvature(specimen(reduction="sum"), (4,))
