"""Signal-to-noise ratios against numpy's mean and variance over gradients of single examples."""

import math

import numpy as np
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from torch import nn

from gradscope.gradients.signal_to_noise import signal_to_noise
from gradscope.problem import Problem
from gradscope.studies.gradient_agreement import gradient_agreement
from gradscope.studies.gradient_signal_to_noise import gradient_signal_to_noise
from gradscope.studies.tangent_kernel_spectrum import tangent_kernel_spectrum


def per_example(problem: Problem) -> dict[str, np.ndarray]:
    """Gradients of all parameters, one backward pass through all examples of all batches for each."""
    rows: dict[str, list[np.ndarray]] = {}
    x, y = (torch.cat(parts) for parts in zip(*problem.batches(), strict=True))
    with problem.prepared():
        problem.model.requires_grad_(True)
        for i in range(len(x)):
            value, seen = problem.losses(x, y)[i], set()
            for name, module in problem.model.named_modules():
                own = [p for p in module.parameters(recurse=False) if p not in seen]
                seen.update(own)
                if own:
                    grads = torch.autograd.grad(
                        value, own, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                    rows.setdefault(name, []).append(torch.cat([g.flatten() for g in grads]).double().numpy())
    return {name: np.stack(gradients) for name, gradients in rows.items()}


@pytest.mark.parametrize(
    "case",
    [
        *("plain", "convolution", "tied weights", "frozen layer", "short last batch", "unused parameter"),
        *("batch norm frozen", "batch norm running", "batch norm train", "half squared error"),
    ],
)
def test_the_statistics_are_those_of_single_examples(case):
    problem = CASES[case]()
    found, expected = signal_to_noise(problem), per_example(problem)
    assert list(found) == list(expected)
    for name, g in expected.items():
        np.testing.assert_allclose(found[name].mean(), g.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(found[name].variance(), g.var(axis=0, ddof=1), rtol=1e-9, atol=1e-14)


def test_a_network_that_mixes_examples_unannounced_is_noticed():
    """Each output less the mean over the batch: alone, every example would have none."""

    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(dim=0)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), Centred()).double()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = Problem(net, (x, torch.arange(6) % 3))
    g = per_example(problem)["0"]
    np.testing.assert_allclose(signal_to_noise(problem)["0"].variance(), g.var(axis=0, ddof=1), rtol=1e-9)


class Hidden(nn.Module):
    """A hidden layer less `mix` of its mean over the batch; without `seen` values alone are those among others."""

    def __init__(self, mix: float, seen: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)
        self.mix, self.seen = mix, seen

    def forward(self, x):
        h = self.a(x).tanh()
        mean = self.mix * h.mean(dim=0)
        return self.b(h - mean if self.seen else h - mean + mean.detach())


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("far", [1.0, 3000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixing_is_seen_behind_an_outlier_and_where_values_do_not_tell(seen, far, dtype):
    """In float32 the loss of one target far away is larger than what mixing does to all the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x, y = (
            Hidden(1.0, seen).to(dtype),
            torch.randn(8, 5, dtype=dtype),
            torch.randn(8, 3, dtype=dtype),
        )
    y[0] = far
    problem = Problem(net, (x, y), "half_squared_error")
    found = signal_to_noise(problem)
    for name, g in per_example(problem).items():
        np.testing.assert_allclose(found[name].variance(), g.var(axis=0, ddof=1), rtol=1e-4, atol=1e-12)


def test_examples_that_do_not_meet_are_not_taken_to_because_of_an_outlier(monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x, y = Hidden(0.0, True), torch.randn(8, 5), torch.randn(8, 3)
    y[0] = 3000
    monkeypatch.setattr("gradscope.gradients.example_gradients._among", None)
    signal_to_noise(Problem(net, (x, y), "half_squared_error"))


@pytest.mark.parametrize("mode", ["frozen", "train", "own"])
def test_batches_have_the_statistics_of_all_examples(mode):
    problem = CASES["batch norm frozen"]()
    net, (x, y) = problem.model, next(problem.batches())
    whole = signal_to_noise(Problem(net, (x, y), batch_norm=mode))
    parts = signal_to_noise(Problem(net, [(x[:2], y[:2]), (x[2:], y[2:])], batch_norm=mode))
    for name, statistics in whole.items():
        np.testing.assert_allclose(parts[name].ratio(), statistics.ratio(), rtol=1e-9)


def test_frozen_statistics_need_no_pass_of_the_batch_for_each_example(monkeypatch):
    monkeypatch.setattr("gradscope.gradients.example_gradients._among", None)
    signal_to_noise(CASES["batch norm frozen"]())


class WritesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.mul_(2))


@pytest.mark.parametrize("read", [gradient_signal_to_noise, tangent_kernel_spectrum, gradient_agreement])
def test_a_network_that_writes_its_input_leaves_the_users_data(read):
    net, x = WritesItsInput().double(), torch.randn(6, 4, dtype=torch.float64)
    before = x.clone()
    read(Problem(net, (x, torch.arange(6) % 3)))
    assert torch.equal(x, before)


def test_a_tied_tensor_counts_where_layer_grams_counts_it():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x).tanh())

    net, x = Tied().double(), torch.randn(6, 4, dtype=torch.float64)
    found = signal_to_noise(Problem(net, (x, torch.arange(6) % 4)), at="head")
    assert len(found["head"].mean()) == 4, "its bias only"
    net.head.bias = net.embed.bias
    with pytest.raises(ValueError, match="counted at the layer that holds them first"):
        signal_to_noise(Problem(net, (x, torch.arange(6) % 4)), at="head")


def test_rows_hold_the_mean_the_median_and_what_was_left_out():
    problem = CASES["unused parameter"]()
    frame = gradient_signal_to_noise(problem)
    assert list(frame.columns) == [
        *("source", "batch_norm", "batches", "quantity", "unit", "site", "depth"),
        *("value", "low", "high", "n", "status", "reason"),
    ]
    g = per_example(problem)["used"]
    ratios = g.mean(axis=0) ** 2 / g.var(axis=0, ddof=1)
    values = frame.set_index(["site", "quantity"])["value"]
    for site in ("used", "all parameters"):
        assert values[site, "gsnr_mean"] == pytest.approx(ratios.mean())
        assert values[site, "gsnr_median"] == pytest.approx(np.median(ratios))
    assert values["all parameters", "gsnr_zero_parameters"] == values["unused", "gsnr_zero_parameters"] == 6
    unused = frame[frame["site"] == "unused"].set_index("quantity")
    assert unused.loc["gsnr_mean", "status"] == "undefined"
    assert unused.loc["gsnr_mean", "reason"] == "no parameter's gradient varies over examples"
    assert math.isnan(unused.loc["gsnr_mean", "depth"]), "it never ran"


@pytest.mark.parametrize("mixes", [0.0, 1.0])
def test_progress_ends_at_the_number_of_examples(mixes):
    net, x = Hidden(mixes, False).double(), torch.randn(6, 5, dtype=torch.float64)
    told = []
    signal_to_noise(Problem(net, (x, torch.arange(6) % 3)), advance=told.append)
    assert sum(told) == 6 and (min(told) < 0) == bool(mixes)


def test_a_steady_gradient_is_counted_not_divided_by_zero():
    """The bias of a linear output has gradient 1 for every example."""
    net = nn.Linear(3, 1).double()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = gradient_signal_to_noise((net, x), source="output").set_index(["site", "quantity"])["value"]
    assert frame["all parameters", "gsnr_steady_parameters"] == 1
    expected = (x.mean(dim=0) ** 2 / x.var(dim=0)).mean()
    assert frame["all parameters", "gsnr_mean"] == pytest.approx(float(expected))


def test_infinite_gradients_are_undefined():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    net = nn.Sequential(nn.Linear(2, 2, bias=False), Root())
    frame = gradient_signal_to_noise((net, torch.zeros(3, 2)), source="output")
    assert set(frame["status"]) == {"undefined"}
    assert set(frame["reason"]) == {"a gradient or its square is infinite or NaN"}


@pytest.mark.parametrize("case", ["plain", "batch norm frozen", "batch norm train"])
def test_the_model_is_as_found(case):
    problem = CASES[case]()
    used(problem.model)
    before = snapshot(problem.model)
    gradient_signal_to_noise(problem)
    assert_as_found(problem.model, before)


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="compares examples, and the data has 1"):
        gradient_signal_to_noise((nn.Linear(2, 2), (torch.ones(1, 2), torch.tensor([0]))))
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with pytest.raises(ValueError, match="'1' has no parameters, nor has anything inside"):
        gradient_signal_to_noise((net, (torch.ones(3, 2), torch.tensor([0, 1, 0]))), at="1")


@pytest.mark.parametrize("case", ["plain", "convolution", "batch norm frozen", "in-place ReLU"])
def test_scatter_and_mean_add_up_to_what_the_gram_says(case):
    """Summed over parameters, the variance is the trace of the covariance, and the squared mean that of the Gram."""
    problem = CASES[case]()
    if case == "batch norm frozen":
        problem = Problem(problem.model, next(problem.batches()), batch_norm="frozen")
    rows = (
        gradient_agreement(problem).query("gradient == 'parameter'").set_index(["site", "quantity"])["value"]
    )
    for name, statistics in signal_to_noise(problem).items():
        scatter, mean = float(statistics.variance().sum()), float(statistics.mean().square().sum())
        assert rows[name, "gradient_covariance_trace"] == pytest.approx(scatter, rel=1e-8)
        expected = mean - scatter / statistics.examples
        assert rows[name, "squared_gradient"] == pytest.approx(expected, rel=1e-7, abs=1e-12)
