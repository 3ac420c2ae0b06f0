"""Singular values against dense Jacobians, orthogonal networks, and the theory of wide rectifier networks."""

import math

import pandas as pd
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from cases import CASES
from torch import nn

from gradscope.gradients.input_jacobian import live_jacobian
from gradscope.nets import build, initialise
from gradscope.problem import Problem
from gradscope.studies.frames import where
from gradscope.studies.jacobian_spectrum import jacobian_spectrum

PREFIX = "squared_singular_value"


def linear(matrix: torch.Tensor) -> nn.Module:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0]).to(matrix.dtype)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


def test_rows_are_those_of_the_dense_jacobian():
    problem = CASES["plain"]()
    frame = jacobian_spectrum(problem, examples=2)
    inputs = problem.first_batch()[0]
    for example in range(2):
        dense = torch.autograd.functional.jacobian(problem.model, inputs[example])
        expected = torch.linalg.svdvals(dense)
        rows = where(frame, example=example)
        singular = where(rows, quantity="singular_value")
        assert singular["index"].tolist() == [0, 1, 2]
        assert singular["value"].to_numpy() == pytest.approx(expected.numpy())
        values = rows[rows["index"] < 0].set_index("quantity")["value"]
        assert values[f"{PREFIX}_mean"] == pytest.approx(float(dense.square().sum()) / 3)
        product = dense @ dense.T
        assert values[f"{PREFIX}_mean_square"] == pytest.approx(float((product @ product).trace()) / 3)
        assert values["jacobian_condition_number"] == pytest.approx(float(torch.linalg.cond(dense)))
        near = ((expected >= 0.5) & (expected <= 2)).sum() / 3
        assert values["isometry_share"] == pytest.approx(float(near))
    assert set(frame["method"]) == {"reverse"} and set(frame["batch_norm"]) == {"none"}


def test_orthogonal_linear_networks_are_isometric():
    generator = torch.Generator().manual_seed(0)
    layers = [
        linear(torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0])
        for _ in range(20)
    ]
    frame = jacobian_spectrum(Problem(nn.Sequential(*layers), torch.randn(2, 6, dtype=torch.float64)))
    assert where(frame, quantity="singular_value")["value"].to_numpy() == pytest.approx(1, abs=1e-12)
    shares = where(frame, quantity="isometry_share")
    assert (shares["value"] == 1).all() and shares["reason"].str.contains("dynamical isometry").all()
    assert where(frame, quantity="jacobian_condition_number")["value"].to_numpy() == pytest.approx(1)


def test_networks_that_look_linear_are_isometric_and_others_are_not():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    net = build("plain_mlp", depth=20, width=12, activation="crelu", outputs=12, seed=0).double()
    assert isometric(net, inputs) < 0.9
    initialise(net, "looks_linear", seed=0)
    frame = jacobian_spectrum(Problem(net, inputs))
    assert where(frame, quantity="singular_value")["value"].to_numpy() == pytest.approx(1, abs=1e-11)


def isometric(net: nn.Module, inputs: torch.Tensor) -> float:
    frame = jacobian_spectrum(Problem(net, inputs))
    return where(frame, quantity="isometry_share")["value"].mean()


@pytest.mark.parametrize(("scheme", "relative_variance"), [("gaussian", 8), ("orthogonal", 4)])
def test_wide_rectifier_networks_follow_mean_field_theory(scheme, relative_variance):
    """n = 400, L = 4: mean s^2 is 1, var / mean^2 is 2 L for Gaussian and L for orthogonal weights.

    The mean of s^2 of one network scatters by 0.11, so it is averaged over five.
    """
    frames = []
    for seed in range(5):
        net = build("plain_mlp", depth=4, width=400, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        if scheme == "orthogonal":
            for block in net.blocks:
                square = torch.randn(400, 400, generator=generator)
                block.linear.weight.data = math.sqrt(2) * torch.linalg.qr(square)[0]
        inputs = torch.randn(1, 400, generator=generator)
        frames.append(jacobian_spectrum(Problem(net, inputs), of=("input", "blocks.3")))
    frame = pd.concat(frames)
    values = frame.groupby("quantity")["value"].mean()
    assert values[f"{PREFIX}_mean"] == pytest.approx(1, abs=0.1)
    assert values[f"{PREFIX}_relative_variance"] == pytest.approx(relative_variance, rel=0.2)
    assert values["isometry_share"] < 0.6
    # Half of the units are off at the end, so that the rank is deficient and the condition not defined.
    assert set(where(frame, quantity="jacobian_condition_number")["status"]) == {"undefined"}


def test_probes_hold_the_exact_moments_in_their_intervals():
    problem = CASES["convolution"]()
    exact = jacobian_spectrum(problem, examples=7)
    estimated = jacobian_spectrum(problem, examples=7, probes=200, seed=1)
    assert set(estimated["method"]) == {"probes"}
    assert set(estimated["quantity"]) == {q for q in exact["quantity"] if q.startswith(PREFIX)}
    both = estimated.merge(exact, on=["quantity", "example"], suffixes=("", "_exact"))
    assert len(both) == 28 and (both["standard_error"] > 0).all()
    held = (both["low"] <= both["value_exact"]) & (both["value_exact"] <= both["high"])
    assert held.mean() >= 0.85
    again = jacobian_spectrum(problem, examples=7, probes=200, seed=1)
    assert again["value"].tolist() == estimated["value"].tolist()


def test_many_passes_are_probed_unasked_and_the_rows_say_so():
    matrix = torch.eye(513)
    problem = Problem(linear(matrix), torch.randn(1, 513))
    frame = jacobian_spectrum(problem)
    assert set(frame["method"]) == {"probes"} and set(frame["n"]) == {64}
    assert frame["reason"].str.contains("513 passes are more than 512").any()
    mean = where(frame, quantity=f"{PREFIX}_mean")["value"].item()
    # Of the identity every probe of signs gives the trace exactly.
    assert mean == pytest.approx(1, abs=1e-6)
    dense = jacobian_spectrum(problem, probes=0)
    assert where(dense, quantity="singular_value")["value"].to_numpy() == pytest.approx(1)


def test_what_takes_a_pass_for_each_example_counts_them():
    """With batch statistics an output's pass is one for each example: 3 outputs, 7 examples."""
    problem = CASES["batch norm train"]()
    own = Problem(problem.model, problem.data, batch_norm="own")
    with live_jacobian(own, examples=2) as jacobian:
        assert jacobian.passes == 2 * jacobian.shape[0]
        advanced: list[int] = []
        jacobian.dense(advanced.append)
        assert sum(advanced) == jacobian.shape[0]


def test_intervals_of_a_few_probes_stay_where_the_moments_can_be():
    """Over draws of eight probes the intervals hold what they should."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(12, 9, generator=generator, dtype=torch.float64)
    problem = Problem(linear(wide), torch.randn(1, 9, dtype=torch.float64))
    exact = jacobian_spectrum(problem).set_index("quantity")["value"]
    held = {name: 0 for name in ("mean", "mean_square")}
    for seed in range(60):
        frame = jacobian_spectrum(problem, probes=8, seed=seed).set_index("quantity")
        for name in held:
            row = frame.loc[f"{PREFIX}_{name}"]
            assert 0 < row["low"] < row["value"] < row["high"]
            held[name] += row["low"] <= exact[f"{PREFIX}_{name}"] <= row["high"]
        variance = frame.loc[f"{PREFIX}_variance"]
        assert variance["low"] >= 0 or "may reach below 0" in variance["reason"]
    assert min(held.values()) >= 52, held


def test_overflow_and_a_zero_jacobian_have_reasons():
    huge = nn.Sequential(linear(torch.eye(2) * 1e30), linear(torch.eye(2) * 1e30))
    frame = jacobian_spectrum(Problem(huge, torch.zeros(1, 2)))
    assert frame["status"].tolist() == ["overflow"]
    frame = jacobian_spectrum(Problem(linear(torch.zeros(2, 2)), torch.ones(1, 2)))
    undefined = frame[frame["value"].isna()]
    assert set(undefined["quantity"]) == {"jacobian_condition_number", f"{PREFIX}_relative_variance"}
    assert (undefined["status"] == "undefined").all() and (undefined["reason"] != "").all()


def test_the_model_is_as_found_and_train_mode_warns():
    problem = CASES["batch norm train"]()
    model = used(problem.model)
    before = snapshot(model)
    with pytest.warns(UserWarning, match="mixes its examples"):
        jacobian_spectrum(problem, examples=2)
    assert_as_found(model, before)


@pytest.mark.parametrize("options", [{"probes": 2}, {"probes": -1}, {"probes": True}, {"examples": 0}])
def test_bad_numbers_are_refused(options):
    with pytest.raises(ValueError, match="at least"):
        jacobian_spectrum(CASES["plain"](), **options)
