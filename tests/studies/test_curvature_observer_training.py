"""The observer of curvature in a training: steps, costs, stability, networks that diverge."""

import math

import pytest
import torch
from cases import batch_norm_net
from observed_nets import batch, moved, net, values
from torch import nn

from gradscope.studies.curvature.stability import stability_limit
from gradscope.studies.curvature_observer import CurvatureObserver
from gradscope.training import fit

OPTIONS = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05}


def test_every_so_many_steps_of_a_training_that_is_not_changed():
    data = batch(examples=40)
    watched, alone = (net(lambda: batch_norm_net(calibrated=False)) for _ in range(2))
    observer = CurvatureObserver(batch(), every=4, learning_rate=0.05)
    fit(watched, data, **OPTIONS, observe=observer)
    fit(alone, data, **OPTIONS)
    for value, expected in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(value, expected)
    frame = observer.frame()
    assert sorted(set(frame["step"])) == [0, 4, 8]
    assert not frame.duplicated(["step", "quantity", "definition", "rank"]).any()
    overhead = frame[frame["quantity"] == "overhead"].set_index("step")
    assert overhead.loc[0, "status"] == "undefined"
    assert (overhead.loc[[4, 8], "value"] > 0).all()


def test_a_step_that_is_seen_again_replaces_its_rows():
    model, observer = net(), CurvatureObserver(batch(), every=1)
    observer(model, 0)
    observer(model, 1)
    before = observer.frame()
    moved(model, 0.3)
    observer(model, 1)
    after = observer.frame()
    assert len(after) == len(before)
    assert after[after["step"] == 0].equals(before[before["step"] == 0])
    assert values(after, 1)["loss"] != values(before, 1)["loss"]


def test_overhead_is_its_time_over_that_of_the_training_before(monkeypatch):
    ticks = iter([0.0, 1.0, 11.0, 16.0])
    monkeypatch.setattr("gradscope.studies.curvature_observer.time.perf_counter", lambda: next(ticks))
    model, observer = net(), CurvatureObserver(batch(), every=1)
    observer(model, 0)
    observer(model, 1)
    found = values(observer.frame(), 1)
    assert found["seconds"] == 5.0
    assert found["overhead"] == 0.5


def test_a_diverged_network_has_undefined_rows_rather_than_an_end_of_training():
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    observer = CurvatureObserver(batch(), learning_rate=0.1)
    observer(model, 0)
    frame = observer.frame()
    rows = frame[frame["quantity"].isin(["loss", "lambda_max", "lambda_min", "learning_rate_product"])]
    assert set(rows["status"]) == {"undefined"}
    assert set(rows["reason"]) == {"the loss or its gradient is not finite"}


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True), (0.5, True)])
def test_the_limit_of_stability_is_where_torchs_optimiser_begins_to_diverge(momentum, nesterov):
    limit = stability_limit(momentum, nesterov=nesterov)

    def last_size(product):
        weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        optimiser = torch.optim.SGD([weight], lr=product, momentum=momentum, nesterov=nesterov)
        for _ in range(500):
            weight.grad = weight.detach().clone()  # that of weight^2 / 2
            optimiser.step()
        return abs(weight.item())

    assert last_size(0.98 * limit) < 1e-3
    assert last_size(1.02 * limit) > 1e3


def test_full_batch_descent_settles_at_the_edge_of_stability():
    """Cohen et al. (2021): lambda_max rises until the learning rate times it hovers at 2 (T14)."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    targets = torch.sin(2 * inputs @ torch.randn(4, 2, generator=generator, dtype=torch.float64))
    model = net(lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)))
    rate, steps = 0.4, 800
    observer = CurvatureObserver(
        (inputs, targets), every=50, learning_rate=rate, loss="half_squared_error", tolerance=1e-2
    )
    for step in range(steps + 1):
        observer(model, step)
        loss = (model(inputs) - targets).square().sum(dim=1).mean() / 2
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter -= rate * slope
    frame = observer.frame()
    products = frame[frame["quantity"] == "learning_rate_product"].set_index("step")["value"]
    losses = frame[frame["quantity"] == "loss"].set_index("step")["value"]
    assert products.loc[0] < 1.5
    assert products.loc[steps - 400 :].between(1.9, 2.2).all()
    assert losses.loc[steps] < losses.loc[0]
