"""Mean and variance of the path length against the split gradient, and where they are known."""

import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import Repeated, Residual
from path_networks import PATH_NETWORKS
from torch import nn

from gradscope.gradients.paths import path_gradients
from gradscope.problem import Problem
from gradscope.studies.path_moments import path_moments


def value(frame, quantity: str, column: str = "value"):
    return frame[frame["quantity"] == quantity][column].iloc[0]


@pytest.mark.parametrize(
    "name", ["projection", "parallel transformer", "highway", "DenseNet", "encoder-decoder", "U-Net"]
)
def test_moments_are_those_of_the_signed_shares(name):
    """T10."""
    problem = PATH_NETWORKS[name].problem()
    graded = path_gradients(problem).flatten(1)
    whole = graded.sum(dim=0)
    shares = graded @ whole / (whole @ whole)
    mean = sum(k * float(share) for k, share in enumerate(shares))
    variance = sum((k - mean) ** 2 * float(share) for k, share in enumerate(shares))
    frame = path_moments(problem)
    assert value(frame, "mean_path_length") == pytest.approx(mean, rel=1e-9)
    assert value(frame, "path_length_variance") == pytest.approx(variance, rel=1e-9)
    assert list(path_moments(problem, order=1)["quantity"]) == ["mean_path_length"]


def scaling(gains: list[float], *, shared: bool = False) -> Problem:
    """Branches a I: the shares are those of independent coins with odds a."""
    layers = [nn.Linear(2, 2, bias=False).double() for _ in gains]
    for layer, gain in zip(layers, gains, strict=True):
        layer.weight.data = gain * torch.eye(2, dtype=torch.float64)
    blocks = [Repeated(Residual(layers[0]), len(gains))] if shared else [Residual(layer) for layer in layers]
    inputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Problem(nn.Sequential(*blocks), (inputs, torch.zeros(3)), loss=lambda o, _: o.sum(dim=1))


def test_a_thousand_blocks():
    """Weights shared over depth: binomial, mean n a / (1 + a), variance n a / (1 + a)^2; sum of all: (1 + a)^n."""
    n, a = 1000, 0.02
    frame = path_moments(scaling([a] * n, shared=True))
    assert value(frame, "mean_path_length") == pytest.approx(n * a / (1 + a), rel=1e-9)
    assert value(frame, "path_length_variance") == pytest.approx(n * a / (1 + a) ** 2, rel=1e-9)
    assert set(frame["junctions"]) == {n} and set(frame["unit"]) == {"branches", "branches^2"}


def test_a_thousand_blocks_with_the_gains_of_batch_normalisation():
    """Gains 1 / l: lengths grow with the logarithm of the depth, sum of 1 / (1 + l)."""
    gains = [1 / block for block in range(1, 1001)]
    frame = path_moments(scaling(gains))
    means = [gain / (1 + gain) for gain in gains]
    assert value(frame, "mean_path_length") == pytest.approx(sum(means), rel=1e-9)
    assert value(frame, "mean_path_length") == pytest.approx(math.log(1000) + 0.5772 - 1, abs=0.02)
    assert value(frame, "path_length_variance") == pytest.approx(sum(m * (1 - m) for m in means), rel=1e-9)


def test_a_negative_variance_is_told():
    """Of one block with share -1 of length 1 the mean is -1 and the variance -1 - 1 = -2."""
    frame = path_moments(scaling([-0.5]))
    assert value(frame, "mean_path_length") == pytest.approx(-1)
    assert value(frame, "path_length_variance") == pytest.approx(-2)
    assert value(frame, "path_length_variance", "status") == "ok"
    assert "signed shares are no probabilities" in value(frame, "path_length_variance", "reason")
    assert value(frame, "mean_path_length", "reason") == ""


def test_each_example_has_moments_of_its_own():
    network = PATH_NETWORKS["projection"]
    inputs, targets = network.inputs(5), network.targets(5)
    frame = path_moments((network.build(), (inputs, targets)), norms="example")
    for quantity in ("mean_path_length", "path_length_variance"):
        alone = [
            value(path_moments((network.build(), (inputs[row : row + 1], targets[row : row + 1]))), quantity)
            for row in range(5)
        ]
        every = torch.tensor(alone, dtype=torch.float64)
        assert value(frame, quantity) == pytest.approx(float(every.mean()), rel=1e-9)
        half = 2.776445 * float(every.std()) / math.sqrt(5)
        assert value(frame, quantity, "high") - value(frame, quantity) == pytest.approx(half, rel=1e-6)
        assert value(frame, quantity, "n") == 5


def test_a_source_and_a_place():
    problem = PATH_NETWORKS["projection"].problem()
    graded = path_gradients(problem, source="margin", at="0").flatten(1)
    whole = graded.sum(dim=0)
    frame = path_moments(problem, source="margin", at="0")
    lengths = torch.arange(len(graded), dtype=torch.float64)
    assert value(frame, "mean_path_length") == pytest.approx(
        float(lengths @ (graded @ whole) / (whole @ whole))
    )
    assert (value(frame, "mean_path_length", "source"), value(frame, "mean_path_length", "at")) == (
        "margin",
        "0",
    )


def test_a_zero_gradient_is_undefined():
    problem = scaling([0.5])
    problem.loss = lambda o, _: o.sum(dim=1) * 0
    frame = path_moments(problem)
    assert set(frame["status"]) == {"undefined"}
    assert set(frame["reason"]) == {"the gradient is zero or not finite"}


def test_the_model_is_as_found_and_other_orders_are_refused():
    problem = PATH_NETWORKS["post-activation"].problem()
    used(problem.model)
    before = snapshot(problem.model)
    path_moments(problem)
    assert_as_found(problem.model, before)
    for order in (0, 3, "all"):
        with pytest.raises(ValueError, match="order is 1"):
            path_moments(problem, order=order)
    with pytest.raises(ValueError, match="No residual addition"):
        path_moments(PATH_NETWORKS["plain"].problem())
