"""Predictiveness and smoothness against a quadratic, where both are known, and against steps made by hand."""

import copy
import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.gradient_predictiveness import gradient_predictiveness


class Weights(nn.Module):
    """Puts out its parameters, whatever comes in."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())

    def forward(self, x):
        return self.weight.expand(len(x), -1)


def quadratic(curvatures: list[float], start: list[float]) -> Problem:
    """L(w) = sum_k h_k w_k^2 / 2."""
    h = torch.tensor(curvatures, dtype=torch.float64)
    model = Weights(torch.tensor(start, dtype=torch.float64))
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.int64))
    return Problem(model, data, lambda output, target: (h * output.square()).sum(dim=1) / 2)


def value_at(frame, quantity, step):
    return where(frame, quantity=quantity, step=step)["value"].item()


def test_a_quadratic_is_known_exactly():
    h, w, steps = [4.0, 1.0], [0.3, -2.0], [0.1, 0.25, 0.6]
    frame = gradient_predictiveness(quadratic(h, w), steps=steps)
    g = [a * b for a, b in zip(h, w, strict=True)]
    length = math.hypot(*g)
    smoothness = math.hypot(*(a * b for a, b in zip(h, g, strict=True))) / length
    assert value_at(frame, "gradient_length", 0.0) == pytest.approx(length)
    for eta in steps:
        there = [b - eta * s for b, s in zip(w, g, strict=True)]
        loss = sum(a * b * b / 2 for a, b in zip(h, there, strict=True))
        assert value_at(frame, "loss_along_gradient", eta) == pytest.approx(loss)
        assert value_at(frame, "step_length", eta) == pytest.approx(eta * length)
        assert value_at(frame, "gradient_difference", eta) == pytest.approx(eta * smoothness * length)
        assert value_at(frame, "relative_gradient_difference", eta) == pytest.approx(eta * smoothness)
        assert value_at(frame, "gradient_difference_per_length", eta) == pytest.approx(smoothness)
    whole = where(frame, quantity="effective_smoothness").iloc[0]
    assert whole["value"] == pytest.approx(smoothness) and smoothness < 4
    assert (whole["low"], whole["high"]) == pytest.approx((smoothness, smoothness))
    along_one = gradient_predictiveness(quadratic(h, [1.0, 0.0]))
    assert where(along_one, quantity="effective_smoothness")["value"].item() == pytest.approx(4)


def test_relative_steps_are_shares_of_the_weights():
    frame = gradient_predictiveness(quadratic([4.0, 1.0], [0.3, -2.0]), steps=[0.5, 0.01], relative=True)
    for share in (0.5, 0.01):
        assert value_at(frame, "step_length", share) == pytest.approx(share * math.hypot(0.3, -2.0))
        row = where(frame, quantity="step_length", step=share).iloc[0]
        assert row["learning_rate"] == pytest.approx(row["value"] / value_at(frame, "gradient_length", 0.0))


def by_hand(problem: Problem, eta: float, training: bool) -> tuple[float, float]:
    """Loss and change of gradient after one step of a copy of the model, batch by batch as in training."""
    models = [copy.deepcopy(problem.model).train(training) for _ in range(2)]
    gradients = []
    for model in models:
        if gradients:
            with torch.no_grad():
                for parameter, slope in zip(model.parameters(), gradients[0], strict=True):
                    parameter -= eta * slope
        losses = [problem.loss(model(x), y).sum() for x, y in problem.batches()]
        loss = sum(losses) / problem.examples
        gradients.append(
            torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        )
    change = sum(float((a - b).square().sum()) for a, b in zip(*gradients, strict=True)) ** 0.5
    return float(loss.detach()), change


@pytest.mark.parametrize(
    ("case", "training"),
    [
        ("plain", False),
        ("short last batch", False),
        ("batch norm train", True),
        ("batch norm running", False),
    ],
)
def test_a_step_is_the_step_made_by_hand(case, training):
    problem = CASES[case]()
    frame = gradient_predictiveness(problem, steps=[0.3])
    loss, change = by_hand(problem, 0.3, training)
    assert value_at(frame, "loss_along_gradient", 0.3) == pytest.approx(loss)
    assert value_at(frame, "gradient_difference", 0.3) == pytest.approx(change)


def test_train_is_what_auto_means_here_and_frozen_says_what_it_leaves_out():
    problem = CASES["batch norm train"]()
    auto = Problem(problem.model, problem.data)
    first, second = gradient_predictiveness(auto), gradient_predictiveness(problem)
    assert first["value"].tolist()[:-1] == second["value"].tolist()[:-1]
    assert set(first["batch_norm"]) == {"train"}
    frozen = gradient_predictiveness(auto, batch_norm="frozen")
    assert set(frozen["batch_norm"]) == {"frozen"} and frozen["reason"].str.contains("held constant").all()
    assert set(gradient_predictiveness(CASES["plain"]())["batch_norm"]) == {"none"}


def test_steps_lost_to_rounding_are_told():
    problem = quadratic([1.0], [1.0])
    frame = gradient_predictiveness(problem, steps=[1e-30, 0.1])
    assert value_at(frame, "step_length", 1e-30) == 0
    lost = where(frame, quantity="gradient_difference_per_length", step=1e-30).iloc[0]
    assert lost["status"] == "undefined" and "rounding" in lost["reason"]
    assert where(frame, quantity="effective_smoothness")["status"].item() == "undefined"


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_as_found_also_when_the_loss_raises(case):
    problem = CASES[case]()
    model = used(problem.model)
    before = snapshot(model)
    gradient_predictiveness(problem, steps=[0.1, 3.0])
    assert_as_found(model, before)
    good, calls = problem.loss, []

    def breaks_on_the_way(output, target):
        calls.append(1)
        if len(calls) > len(list(problem.batches())):
            raise KeyboardInterrupt
        return good(output, target)

    problem.loss = breaks_on_the_way
    with pytest.raises(KeyboardInterrupt):
        gradient_predictiveness(problem, steps=[0.1])
    assert_as_found(model, before)


def test_a_graph_held_by_the_user_can_still_be_run_backwards():
    problem = CASES["residual"]()
    parameters = list(problem.model.parameters())
    x, y = problem.first_batch()
    held = problem.loss(problem.model(x), y).sum()
    pointers = [parameter.data_ptr() for parameter in parameters]
    gradient_predictiveness(problem)
    assert [parameter.data_ptr() for parameter in parameters] == pointers
    expected = torch.autograd.grad(problem.loss(problem.model(x), y).sum(), parameters)
    for a, b in zip(torch.autograd.grad(held, parameters), expected, strict=True):
        assert torch.equal(a, b)


def test_a_loader_that_shuffles_is_read_once():
    """At a step of 1e-9 the gradient is the same to that; of other batches it would be another one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    data = TensorDataset(x, torch.arange(12) % 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    problem = Problem(net, DataLoader(data, batch_size=4, shuffle=True))
    state = torch.get_rng_state()
    frame = gradient_predictiveness(problem, steps=[1e-9])
    assert torch.equal(torch.get_rng_state(), state)
    assert value_at(frame, "relative_gradient_difference", 1e-9) < 1e-6


def test_one_step_may_be_a_number():
    problem = CASES["plain"]()
    assert gradient_predictiveness(problem, steps=0.1).equals(gradient_predictiveness(problem, steps=[0.1]))


@pytest.mark.parametrize("steps", [[], [0.0], [0.1, -1.0], [math.nan], "0.1", "12", ["a"], None])
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(ValueError, match="one or more positive numbers"):
        gradient_predictiveness(CASES["plain"](), steps=steps)


def test_no_direction_is_refused():
    with pytest.raises(ValueError, match="no direction to step in"):
        gradient_predictiveness(quadratic([1.0], [0.0]))
    problem = CASES["plain"]()
    problem.model.requires_grad_(False)
    with pytest.raises(ValueError, match="all of them are frozen"):
        gradient_predictiveness(problem)
