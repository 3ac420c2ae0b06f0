"""The study against loops over examples, and against the laws of Balduzzi et al. (2017)."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import NETWORKS, mlp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.gradient_correlation import gradient_correlation


def problem_of(name: str, batch_norm: str = "auto", examples: int = 5) -> Problem:
    specimen = NETWORKS[name]
    return Problem(
        specimen.build(), (specimen.inputs(examples), specimen.targets(examples)), batch_norm=batch_norm
    )


def slow_R(rows: torch.Tensor) -> float:
    n, g = len(rows), rows.flatten(start_dim=1).numpy()
    products = [g[i] @ g[j] for i in range(n) for j in range(n) if i != j]
    return float(np.mean(products) / np.mean([row @ row for row in g]))


def slow_cosine(rows: torch.Tensor) -> float:
    n, g = len(rows), rows.flatten(start_dim=1).numpy()
    g = g / np.linalg.norm(g, axis=1, keepdims=True)
    return float(np.mean([g[i] @ g[j] for i in range(n) for j in range(n) if i != j]))


def one_at_a_time(problem: Problem, source: str) -> dict[str, torch.Tensor]:
    """Gradients at the input and at every layer's output, of batches of one example."""
    x, y = problem.first_batch()
    rows: dict[str, list[torch.Tensor]] = {}
    for example in range(len(x)):
        outputs, handles = {}, []
        for name, module in problem.model.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                handles.append(module.register_forward_hook(keeping(outputs, name)))
        one = x[example : example + 1].clone().requires_grad_()
        if source == "loss":
            value = problem.losses(one, y[example : example + 1]).sum()
        else:
            value = problem.model(one).sum()
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(value, [one, *outputs.values()], allow_unused=True)
        for name, gradient in zip(["input", *outputs], gradients, strict=True):
            rows.setdefault(name, []).append(gradient[0])
    return {name: torch.stack(gradients) for name, gradients in rows.items()}


def keeping(outputs, name):
    def hook(module, arguments, output):
        outputs[name] = output

    return hook


@pytest.mark.parametrize("source", ["output", "loss"])
@pytest.mark.parametrize("name", ["plain", "out-of-place", "pre-norm transformer"])
def test_values_are_those_of_examples_looked_at_alone(name, source):
    problem = problem_of(name)
    frame = gradient_correlation(problem, source=source)
    expected = one_at_a_time(problem, source)
    assert set(frame["site"]) == set(expected)
    for quantity, slow in (("correlation_R", slow_R), ("mean_cosine", slow_cosine)):
        values = frame[frame["quantity"] == quantity].set_index("site")["value"]
        for site, rows in expected.items():
            assert values[site] == pytest.approx(slow(rows), abs=1e-9), site
    assert set(frame["source"]) == {source}


def test_rows_are_tidy():
    frame = gradient_correlation(problem_of("plain"), theory=False)
    assert list(frame.columns) == [
        *("source", "centred", "batch_norm", "quantity", "unit", "site", "depth", "call"),
        *("value", "low", "high", "n", "n_zero", "n_pairs", "status", "reason"),
    ]
    assert list(frame["site"]) == ["input", "input", "0", "0", "2", "2", "4", "4"]
    assert list(frame["depth"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert set(frame["status"]) == {"ok"} and set(frame["n"]) == {5} and set(frame["batch_norm"]) == {"none"}
    measured = frame[frame["quantity"] == "correlation_R"]
    assert ((measured["low"] <= measured["value"]) & (measured["value"] <= measured["high"])).all()


def test_in_place_networks_read_like_their_out_of_place_twins():
    values = [gradient_correlation(problem_of(name))["value"] for name in ("post-activation", "out-of-place")]
    assert values[0].tolist() == pytest.approx(values[1].tolist(), abs=1e-12)


def batch_norm_net(depth: int = 3) -> nn.Module:
    layers = [m for _ in range(depth) for m in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh())]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        return nn.Sequential(*layers, nn.Linear(6, 2)).double()


def gaussian(examples: int, width: int = 6) -> torch.Tensor:
    return torch.randn(examples, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("depth", [1, 3])
def test_summed_train_mode_gradients_are_pinned_whatever_the_network(depth):
    """Through train-mode statistics, gradients at a layer before them sum to zero: R = -1/(B-1)."""
    with pytest.warns(UserWarning, match="mixes its examples"):
        frame = gradient_correlation(Problem(batch_norm_net(depth), gaussian(16), batch_norm="train"))
    values = frame[(frame["quantity"] == "correlation_R") & frame["site"].isin(["input", "0"])]["value"]
    assert values.tolist() == pytest.approx([-1 / 15] * 2, abs=1e-10)


def test_own_is_each_examples_gradient_through_the_batchs_statistics():
    model, x = batch_norm_net(), gaussian(8)
    frame = gradient_correlation(Problem(model, x, batch_norm="own"))
    model.train()
    rows = []
    for example in range(8):
        inputs = x.clone().requires_grad_()
        rows.append(torch.autograd.grad(model(inputs)[example].sum(), inputs)[0][example])
    row = frame[(frame["site"] == "input") & (frame["quantity"] == "correlation_R")].iloc[0]
    assert row["value"] == pytest.approx(slow_R(torch.stack(rows)), abs=1e-12)
    assert row["batch_norm"] == "own" and row["depth"] == 0
    assert set(frame["site"]) == {"input", "0", "1", "3", "4", "6", "7", "9"}


def test_frozen_equals_calibrated_eval():
    """Within 0.02 (sheet, acceptance experiment G)."""
    model, x = batch_norm_net(8), gaussian(256)
    frozen = gradient_correlation(Problem(model, x, batch_norm="frozen"))["value"]
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 1.0
    model.train()(x)
    calibrated = gradient_correlation(Problem(model.eval(), x))
    assert set(calibrated["batch_norm"]) == {"running"}
    assert (frozen - calibrated["value"]).abs().max() < 0.02


@pytest.mark.parametrize("name", ["post-activation", "tokens"])
@pytest.mark.parametrize("batch_norm", ["auto", "frozen", "train", "running"])
def test_the_model_is_as_found(name, batch_norm):
    problem = problem_of(name, batch_norm)
    used(problem.model)
    before = snapshot(problem.model)
    mixing = "train" in problem.batch_norm_name
    with pytest.warns(UserWarning, match="mixes its examples") if mixing else nullcontext():
        gradient_correlation(problem)
    assert_as_found(problem.model, before)


def test_the_input_row_of_integers_is_what_the_embedding_makes_of_them():
    frame = gradient_correlation(problem_of("tokens"), at=["token", "blocks.0"])
    assert set(frame["site"]) == {"input", "token", "blocks.0"}
    values = {site: group["value"].tolist() for site, group in frame.groupby("site")}
    assert values["input"] == values["token"] != values["blocks.0"]


@pytest.mark.parametrize("batch_norm", ["auto", "own"])
def test_a_site_without_a_row_for_each_example_is_skipped(batch_norm):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Flatten(0), nn.Unflatten(0, (5, 4))).double()
    frame = gradient_correlation(Problem(model, gaussian(5, 4), batch_norm=batch_norm), at=["0", "2"])
    assert set(frame[frame["status"] == "skipped"]["site"]) == {"2"}
    assert set(frame[frame["status"] == "ok"]["site"]) == {"0", "input"}
    assert set(frame[frame["site"] == "2"]["reason"]) == {
        "the first dimension of the output does not count the examples"
    }


def test_a_shuffled_loader_costs_no_random_number():
    x = gaussian(6, 4)
    loader = DataLoader(TensorDataset(x, torch.zeros(6)), batch_size=3, shuffle=True)
    model = mlp(4, 3).double()
    before = snapshot(model)
    gradient_correlation((model, loader))
    assert_as_found(model, before)


def test_zero_gradients_are_counted_and_left_out_of_the_cosine():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[0].bias.zero_()
    x = gaussian(6, 4)
    x[0] = -1.0
    frame = gradient_correlation((model, x), at="0").set_index(["site", "quantity"])
    rows = torch.stack([(row > 0).double() * model[2].weight[0].detach() for row in x])
    zero = int((rows.abs().sum(dim=1) == 0).sum())
    assert frame.loc[("input", "mean_cosine"), "n_zero"] == zero >= 1
    assert frame.loc[("input", "mean_cosine"), "value"] == pytest.approx(
        slow_cosine(rows[rows.abs().sum(dim=1) > 0]), abs=1e-12
    )
    assert frame.loc[("input", "correlation_R"), "value"] == pytest.approx(slow_R(rows), abs=1e-12)
    dead = gradient_correlation((model, -x.abs()), at="0", theory=False)
    assert set(dead["status"]) == {"undefined"} and dead["value"].isna().all()
    assert set(dead["reason"]) == {"0 examples have a non-zero gradient"}


def test_infinite_gradients_are_undefined():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    frame = gradient_correlation(
        (nn.Sequential(nn.Linear(2, 2, bias=False), Root()), torch.zeros(3, 2)), at="0"
    )
    assert set(frame["status"]) == {"undefined"} and set(frame["reason"]) == {"a gradient is infinite or NaN"}


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((mlp(4, 3), torch.ones(1, 4)), {}, "compares examples, and the first batch has 1"),
        ((mlp(4, 3), torch.ones(5, 4)), {"source": "logit"}, "wants class numbers .N. as targets, got none"),
        ((mlp(4, 3), torch.ones(5, 4)), {"source": "margin"}, "one of output, logit, loss, .* got 'margin'"),
        ((mlp(4, 3), torch.ones(5, 4)), {"source": 3}, "source=3 is no output: they are 0 .. 2"),
        ((mlp(4, 3), torch.ones(5, 4)), {"source": "loss"}, "the data has no targets"),
        ((mlp(4, 3), torch.ones(5, 4)), {"at": "blocks.*"}, "No site of Sequential matches"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, options, match):
    with pytest.raises(ValueError, match=match):
        gradient_correlation(arguments, **options)


def test_own_statistics_of_integer_inputs_are_refused():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Embedding(7, 4), nn.BatchNorm1d(4)

        def forward(self, ids):
            return self.norm(self.embed(ids).mean(dim=1))

    with pytest.raises(ValueError, match="'own' needs inputs that are one floating-point tensor"):
        gradient_correlation(Problem(Normed(), torch.zeros(3, 5, dtype=torch.long), batch_norm="own"))


def mean_R(family: str, layers: int, seeds=range(4), width: int = 256, **options) -> float:
    """Mean over seeds of R at the input, 128 Gaussian inputs, one output."""
    values = []
    for seed in seeds:
        model = build(family, depth=layers, width=width, outputs=1, seed=seed, **options)
        x = torch.randn(128, width, generator=torch.Generator().manual_seed(seed))
        frame = gradient_correlation((model, x), at="head")
        values.append(
            frame[(frame["site"] == "input") & (frame["quantity"] == "correlation_R")]["value"].iloc[0]
        )
    return float(np.mean(values))


@pytest.mark.parametrize("layers", [1, 2, 4, 8])
@pytest.mark.parametrize(("family", "ratio"), [("plain_mlp", 1 / 2), ("residual_mlp", 3 / 4)])
def test_theorems_one_and_two(family, ratio, layers):
    """2^-L without and (3/4)^L with skips, where units stay balanced."""
    assert mean_R(family, layers, normalise="mean") == pytest.approx(ratio**layers, abs=0.02)


def test_without_centring_the_plain_network_does_not_follow_theorem_one():
    measured = mean_R("plain_mlp", 4, normalise="none")
    assert abs(measured - 1 / 16) > 0.04
    assert measured == pytest.approx(0.142, abs=0.035)


@pytest.mark.parametrize("beta", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("layers", [4, 10, 50])
def test_the_law_of_residual_networks_with_batch_norm(layers, beta):
    """Frozen statistics: Var and Cov as products over blocks, with the rectifier's c = 1 - 1/pi."""
    a, c = 1 / beta**2, 1 - 1 / math.pi
    blocks = [a + c * block for block in range(layers)]
    expected = math.prod((1 + 1 / (2 * b)) / (1 + 1 / b) for b in blocks)
    assert mean_R("residual_mlp", layers, normalise="batch", beta=beta) == pytest.approx(expected, abs=0.03)
