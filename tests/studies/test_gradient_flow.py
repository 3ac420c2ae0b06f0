"""Gradient flow against one backward pass for each example, and against networks whose flow is known."""

import math
from contextlib import ExitStack
from functools import partial

import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from networks import NETWORKS
from torch import nn
from torch.nn import functional

from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.flow_reading import flow_reading
from gradscope.studies.frames import where
from gradscope.studies.gradient_flow import gradient_flow

MIXING = {"batch norm train"}


def value_of(frame: pd.DataFrame, quantity: str, site: str, parameter: str = "", call: int = 0) -> float:
    call = -1 if parameter else call
    return where(frame, quantity=quantity, site=site, parameter=parameter, call=call)["value"].item()


def example_norms(problem: Problem) -> dict[str, list[float]]:
    """Norm of d loss_i / d output_i at every module that holds parameters and runs once, by a pass for each example."""
    norms: dict[str, list[float]] = {}
    with problem.prepared():
        for inputs, targets in problem.batches():
            held: dict[str, torch.Tensor] = {}
            with ExitStack() as stack:
                for name, module in problem.model.named_modules():
                    if list(module.parameters(recurse=False)):
                        keep = partial(
                            lambda held, name, m, a, output: held.update({name: output}), held, name
                        )
                        stack.callback(module.register_forward_hook(keep).remove)
                losses = problem.losses(inputs.requires_grad_(), targets)
            for i, loss in enumerate(losses):
                for name, output in held.items():
                    (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
                    norms.setdefault(name, []).append(math.hypot(*gradient[i].flatten().tolist()))
    return norms


def mean_loss_gradients(problem: Problem) -> dict[str, torch.Tensor]:
    with problem.prepared():
        mean = sum(problem.losses(*batch).sum() for batch in problem.batches()) / problem.examples
        found = torch.autograd.grad(mean, list(problem.parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(problem.parameters, found, strict=True) if g is not None}


@pytest.mark.parametrize("case", sorted(CASES.keys() - MIXING - {"in-place ReLU"}))
def test_norms_at_outputs_are_those_of_a_pass_for_each_example(case):
    problem = CASES[case]()
    frame = gradient_flow(problem)
    expected = example_norms(problem)
    assert len(expected) > 1 or case == "unused parameter"
    for site, norms in expected.items():
        logs = torch.tensor(norms, dtype=torch.float64).log10()
        mean_square = sum(norm**2 for norm in norms) / len(norms)
        assert value_of(frame, "output_gradient_log10_norm", site) == pytest.approx(
            math.log10(mean_square) / 2, abs=1e-12
        )
        mean = where(frame, quantity="output_gradient_log10_norm_mean", site=site).iloc[0]
        assert mean["value"] == pytest.approx(float(logs.mean()), abs=1e-12)
        assert mean["low"] < mean["value"] < mean["high"] and mean["n"] == len(norms)
        assert value_of(frame, "output_gradient_log10_norm_sd", site) == pytest.approx(float(logs.std()))


@pytest.mark.parametrize("case", sorted(CASES.keys() - MIXING))
def test_parameter_gradients_are_those_of_the_mean_loss(case):
    problem = CASES[case]()
    frame = gradient_flow(problem, learning_rate=0.05)
    parameters = dict(problem.model.named_parameters())
    gradients = mean_loss_gradients(problem)
    assert len(gradients) >= 2
    for name, gradient in gradients.items():
        site, _, last = name.rpartition(".")
        norm, weight = float(gradient.norm()), float(parameters[name].detach().norm())
        assert value_of(frame, "parameter_gradient_log10_norm", site, last) == pytest.approx(
            math.log10(norm), abs=1e-12
        )
        assert value_of(frame, "parameter_norm", site, last) == pytest.approx(weight)
        if not weight:
            row = where(frame, quantity="gradient_to_weight_ratio", site=site, parameter=last).iloc[0]
            assert row["status"] == "undefined" and row["reason"] == "the parameters are all zero"
            continue
        assert value_of(frame, "gradient_to_weight_ratio", site, last) == pytest.approx(norm / weight)
        assert value_of(frame, "update_to_weight_ratio", site, last) == pytest.approx(0.05 * norm / weight)
    together = where(frame, quantity="parameter_gradient_log10_norm", parameter="all", status="ok")
    total = sum(float(g.square().sum()) for g in gradients.values())
    assert sum(10 ** (2 * together["value"])) == pytest.approx(total)


def test_a_mean_and_a_sum_differ_by_the_number_of_examples_in_parameters_only():
    mean = CASES["short last batch"]()
    summed = Problem(mean.model, mean.data, reduction="sum")
    first, second = gradient_flow(mean), gradient_flow(summed)
    of_parameters = first["quantity"].isin(["parameter_gradient_log10_norm"])
    difference = (second["value"] - first["value"])[of_parameters]
    assert difference.to_numpy() == pytest.approx(math.log10(9))
    pd.testing.assert_series_equal(
        where(first, quantity="output_gradient_log10_norm")["value"],
        where(second, quantity="output_gradient_log10_norm")["value"],
    )


def chain(gains: list[float], width: int = 4, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Linear layers, each `gain` times a rotation, so that the gradient's norm is multiplied by exactly `gain`."""
    layers = []
    generator = torch.Generator().manual_seed(0)
    for gain in gains:
        layer = nn.Linear(width, width, bias=False, dtype=dtype)
        with torch.no_grad():
            square = torch.randn(width, width, generator=generator, dtype=torch.float64)
            layer.weight.copy_(gain * torch.linalg.qr(square)[0])
        layers.append(layer)
    return nn.Sequential(*layers)


def regression(net: nn.Module, dtype: torch.dtype = torch.float64, width: int = 4) -> Problem:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, width, generator=generator, dtype=torch.float64).to(dtype)
    return Problem(net, (x, y), "half_squared_error")


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
def test_the_growth_rate_of_a_chain_of_rotations_is_exact(gain):
    frame = gradient_flow(regression(chain([gain] * 7)))
    rate = where(frame, quantity="gradient_growth_rate").iloc[0]
    factor = where(frame, quantity="gradient_growth_factor").iloc[0]
    assert rate["value"] == pytest.approx(math.log(gain), abs=1e-9)
    assert rate["high"] - rate["low"] < 1e-9
    assert (factor["value"], factor["n"]) == (pytest.approx(gain), 7)
    assert rate["site"] == "all layers" and "7 Linear outputs of shape 4, 0 to 6" in rate["reason"]
    over = where(frame, quantity="gradient_growth_over_fit").iloc[0]
    assert over["value"] == pytest.approx(gain**6) and rate["n"] == factor["n"] == over["n"] == 7
    line = where(frame, quantity="fitted_gradient_log10_norm")
    norms = where(frame, quantity="output_gradient_log10_norm")
    assert line["site"].tolist() == norms["site"].tolist()
    assert line["value"].to_numpy() == pytest.approx(norms["value"].to_numpy())
    told = flow_reading(frame)
    assert told.startswith({0.5: "Healthy", 1.0: "Healthy", 3.0: "Explodes"}[gain])


def test_the_interval_holds_the_rate_of_random_factors_as_often_as_it_says():
    """Gains are drawn anew for each layer, so that the norm is a random walk about the line."""
    held = 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        logs = 0.2 + 0.3 * torch.randn(9, generator=generator)
        net = chain(logs.exp().tolist(), width=2)
        frame = gradient_flow(regression(net, width=2))
        rate = where(frame, quantity="gradient_growth_rate").iloc[0]
        held += rate["low"] <= 0.2 <= rate["high"]
        ends = where(frame, quantity="fitted_gradient_log10_norm").iloc[[0, -1]]
        for end in ("low", "high"):
            # The ends turn about the middle, four layers away, with the rate's own interval.
            assert abs(ends[end] - ends["value"]).to_numpy() == pytest.approx(
                4 * (rate["high"] - rate["value"]) / math.log(10)
            )
    assert 51 <= held <= 60


def test_float32_underflow_is_told_from_a_zero_gradient():
    frame = gradient_flow(regression(chain([0.02] * 30, dtype=torch.float32), torch.float32))
    norms = where(frame, quantity="output_gradient_log10_norm").set_index("depth")
    assert set(norms["status"]) == {"ok", "underflow"} and norms.loc[1, "status"] == "underflow"
    assert math.isnan(norms.loc[1, "value"]) and "float32 underflowed" in norms.loc[1, "reason"]
    exact = where(
        gradient_flow(regression(chain([0.02] * 30))), quantity="output_gradient_log10_norm"
    ).set_index("depth")
    fine = norms.index[norms["status"] == "ok"]
    assert norms.loc[fine, "value"].min() < -25
    assert (norms.loc[fine, "value"] - exact.loc[fine, "value"]).abs().max() < 1e-3
    assert where(frame, quantity="output_gradient_subnormal_share")["value"].max() > 0.5
    told = flow_reading(frame)
    assert told.startswith("Vanishes") and "precision" in told
    zero = chain([1.0, 1.0, 0.0])
    frame = where(gradient_flow(regression(zero)), quantity="output_gradient_log10_norm", site="0")
    assert frame["status"].item() == "undefined" and "exactly zero" in frame["reason"].item()


def test_overflow_is_flagged():
    frame = gradient_flow(regression(chain([1e12] * 4, dtype=torch.float32), torch.float32), source="output")
    rows = where(frame, quantity="output_gradient_log10_norm")
    assert set(rows["status"]) == {"ok"}
    assert where(frame, quantity="output_gradient_log10_norm", site="0")["value"].item() > 35
    frame = gradient_flow(regression(chain([1e15] * 4, dtype=torch.float32), torch.float32), source="output")
    overflowed = where(frame, quantity="output_gradient_log10_norm", site="0").iloc[0]
    assert overflowed["status"] == "overflow" and math.isnan(overflowed["value"])
    assert "overflowed" in flow_reading(frame)


class Functional(nn.Module):
    """Rectifiers as functions and in place, one module of weights run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.weights(x), inplace=True)
        return self.head(self.weights(x).clamp(min=0))


def test_a_module_that_runs_twice_has_a_row_for_each_call_and_functions_are_rectifiers_too():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Functional().double()
        x = torch.randn(9, 4, dtype=torch.float64)
    batches = [(x[:5], torch.tensor([0, 1, 2, 0, 1])), (x[5:], torch.tensor([0, 1, 2, 0]))]
    frame = gradient_flow(Problem(net, batches))
    norms = where(frame, quantity="output_gradient_log10_norm", site="weights")
    assert norms["call"].tolist() == [0, 1] and norms["value"].nunique() == 2
    first = net.weights(x).relu()
    second = net.weights(first).relu()
    for call, output in enumerate((first, second)):
        active = output > 0
        pairs = [(active[i] & active[j]).double().mean().item() for i in range(9) for j in range(9) if i != j]
        of_call = where(frame, site="", call=call).set_index("quantity")["value"]
        assert of_call["active_fraction"] == pytest.approx(active.double().mean().item())
        assert of_call["co_active_fraction"] == pytest.approx(sum(pairs) / 72)
        assert of_call["dead_fraction"] == (~active.any(dim=0)).double().mean().item()
        assert of_call["always_on_fraction"] == active.all(dim=0).double().mean().item()


def test_channels_are_dead_where_all_their_positions_are():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(27, 3)).double()
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-50.0, 0.0, 50.0]))
    x = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = where(gradient_flow(Problem(net, (x, torch.tensor([0, 1, 2, 0])))), site="1")
    values = frame.set_index("quantity")["value"]
    assert values["dead_channel_fraction"] == pytest.approx(1 / 3)
    assert values["dead_fraction"] >= 1 / 3 and values["always_on_fraction"] >= 1 / 3
    assert set(frame["depth"]) == {1}


@pytest.mark.parametrize("net", ["tokens", "frozen transformer", "shared weights", "encoder layers"])
def test_any_network_gives_rows_and_is_left_as_found(net):
    specimen = NETWORKS[net]
    model = used(specimen.build())
    before = snapshot(model)
    problem = Problem(model, specimen.inputs())
    frame = gradient_flow(problem, source="output")
    assert_as_found(model, before)
    undefined = frame["value"].isna()
    assert (frame.loc[undefined, "status"] != "ok").all() and (frame.loc[undefined, "reason"] != "").all()
    assert (where(frame, quantity="output_gradient_log10_norm")["status"] == "ok").any()

    def broken(outputs, targets):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gradient_flow(problem, source=broken)
    assert_as_found(model, before)


def test_frozen_and_shared_parameters_say_so():
    frame = where(gradient_flow(CASES["tied weights"]()), quantity="parameter_gradient_log10_norm")
    assert set(where(frame, site="first")["parameter"]) == {"all", "weight", "bias"}
    assert set(where(frame, site="second")["parameter"]) == {"all", "bias"}
    frozen = where(
        gradient_flow(CASES["frozen layer"]()), quantity="parameter_gradient_log10_norm", site="2"
    ).iloc[0]
    assert frozen["status"] == "skipped" and "frozen" in frozen["reason"]
    unused = where(gradient_flow(CASES["unused parameter"]()), site="unused").iloc[0]
    assert unused["status"] == "undefined" and unused["depth"] == -1


def test_containers_hold_the_parameters_inside_them():
    problem = CASES["residual"]()
    frame = gradient_flow(problem, at=["0", "1"])
    gradients = mean_loss_gradients(problem)
    for site in "01":
        total = sum(float(g.square().sum()) for n, g in gradients.items() if n.startswith(f"{site}."))
        value = value_of(frame, "parameter_gradient_log10_norm", site, "all")
        assert value == pytest.approx(math.log10(total) / 2)


def test_train_mode_warns_and_own_equals_a_pass_for_each_example():
    case = CASES["batch norm train"]()
    with pytest.warns(UserWarning, match="mixes its examples"):
        mixed = gradient_flow(case)
    own = Problem(case.model, case.data, batch_norm="own")
    frame = gradient_flow(own)
    assert set(frame["batch_norm"]) == {"own"} and set(mixed["batch_norm"]) == {"train"}
    for site, norms in example_norms(own).items():
        expected = math.log10(sum(n**2 for n in norms) / len(norms)) / 2
        assert value_of(frame, "output_gradient_log10_norm", site) == pytest.approx(expected, abs=1e-12)
    # The gradient of a bias before batch normalisation is zero but for rounding, hence the absolute tolerance.
    mine, theirs = (10 ** where(f, quantity="parameter_gradient_log10_norm")["value"] for f in (frame, mixed))
    assert mine.to_numpy() == pytest.approx(theirs.to_numpy(), abs=1e-14)


def test_recomputed_parts_are_counted_once():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Checkpointed().double()
    again = gradient_flow(regression(net))
    plain = gradient_flow(regression(net.inner))
    assert again["value"].to_numpy() == pytest.approx(plain["value"].to_numpy(), nan_ok=True)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf])
def test_a_learning_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="positive number"):
        gradient_flow(CASES["plain"](), learning_rate=rate)


def test_batches_may_be_cut_and_ordered_at_will():
    whole = CASES["plain"]()
    (x, y) = whole.first_batch()
    order = torch.tensor([4, 2, 6, 0, 5, 1, 3])
    cut = Problem(whole.model, [(x[order[:3]], y[order[:3]]), (x[order[3:]], y[order[3:]])])
    first, second = gradient_flow(whole), gradient_flow(cut)
    assert first["value"].to_numpy() == pytest.approx(second["value"].to_numpy(), abs=1e-12, nan_ok=True)
    assert first["n"].tolist() == second["n"].tolist()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_follow_the_scale_of_the_loss_in_float32(scale):
    net = build("plain_mlp", depth=4, width=6, outputs=3, seed=0)
    x, y = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    plain, scaled = (
        where(gradient_flow(Problem(net, (x, y), loss)), quantity="output_gradient_log10_norm")["value"]
        for loss in (
            lambda output, target: functional.cross_entropy(output, target, reduction="none"),
            lambda output, target: scale * functional.cross_entropy(output, target, reduction="none"),
        )
    )
    assert (scaled - plain).to_numpy() == pytest.approx(math.log10(scale), abs=1e-5)


def test_depth_is_counted_as_everywhere_from_one():
    frame = gradient_flow(CASES["plain"]())
    assert where(frame, quantity="output_gradient_log10_norm")["depth"].tolist()[0] == 1
    assert set(where(frame, quantity="parameter_norm", parameter="all")["depth"]) == set(
        where(frame, quantity="output_gradient_log10_norm")["depth"]
    )


def test_a_signal_that_underflowed_forward_is_told_from_units_that_are_off():
    """Rectifiers of a shrinking chain see exact zeros, so every gradient is zero although the network's is not."""
    layers = [layer for part in chain([0.01] * 30, dtype=torch.float32) for layer in (part, nn.ReLU())]
    for layer in layers[::2]:
        layer.weight.data = 0.01 * torch.eye(4)
    net = nn.Sequential(*layers, nn.Linear(4, 4))
    frame = gradient_flow(regression(net, torch.float32))
    norms = where(frame, quantity="output_gradient_log10_norm")
    assert (norms["status"].iloc[:-1] == "underflow").all() and norms["status"].iloc[-1] == "ok"
    assert "the forward signal underflowed" in norms["reason"].iloc[0]
    assert where(frame, quantity="parameter_gradient_log10_norm", site="0")["status"].iloc[0] == "underflow"
    assert flow_reading(frame).startswith("Vanished")
    off = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with torch.no_grad():
        off[0].bias.fill_(-50)
    norms = where(gradient_flow(regression(off.double())), quantity="output_gradient_log10_norm", site="0")
    assert norms["status"].item() == "undefined"
