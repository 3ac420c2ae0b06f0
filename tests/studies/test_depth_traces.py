"""Traces at all depths from one pass against autograd on each shallower network, and against the printed table."""

import itertools

import numpy as np
import pytest
import torch
from as_found import assert_as_found, snapshot, used
from torch import nn

from gradscope.data import line
from gradscope.measures.trace import autocorrelation, distinct_values
from gradscope.nets import Network, Residual, build
from gradscope.studies.depth_traces import depth_traces, network_traces
from gradscope.studies.input_trace import input_trace
from gradscope.theory import expected_autocorrelation, plain_derivative_process

COMMON = list(itertools.product(["none", "mean", "batch"], ["relu", "crelu", "linear"], [False, True]))
FAMILIES = [
    ("plain_mlp", {}),
    ("residual_mlp", {"alpha": 0.7, "beta": 0.3}),
    ("residual_mlp", {"branch_layers": 2}),
]


def a_network(family: str, normalise: str, activation: str, bias: bool, **options) -> Network:
    """Four blocks of six units, every parameter away from its initial zero."""
    shape = {"depth": 4, "width": 6, "inputs": 1, "outputs": 2, "seed": 3}
    network = build(
        family, **shape, normalise=normalise, activation=activation, bias=bias, **options
    ).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def by_autograd(network: Network, depth: int, grid: torch.Tensor) -> torch.Tensor:
    """Of the first blocks and the head; batch statistics of the grid are constants, written out."""
    inputs = grid.clone().requires_grad_()

    def frozen(module: nn.Module, arguments: tuple, _output: torch.Tensor) -> torch.Tensor:
        (values,) = arguments
        fixed = values.detach()
        return (values - fixed.mean(dim=0)) / (fixed.var(dim=0, correction=0) + module.eps).sqrt()

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    handles = [norm.register_forward_hook(frozen) for norm in norms]
    state = network.stem(inputs)
    for block in network.blocks[:depth]:
        state = block(state)
    (gradient,) = torch.autograd.grad(network.head(state).sum(), inputs)
    for handle in handles:
        handle.remove()
    return gradient[:, 0]


@pytest.mark.parametrize(("family", "options"), FAMILIES)
@pytest.mark.parametrize(("normalise", "activation", "bias"), COMMON)
def test_one_pass_gives_every_depth_what_autograd_gives(family, options, normalise, activation, bias):
    network, grid = a_network(family, normalise, activation, bias, **options), line(20, dtype=torch.float64)
    expected = torch.stack([by_autograd(network, depth, grid) for depth in (1, 2, 3, 4)])
    before = snapshot(used(network))
    found = network_traces(network, [1, 2, 3, 4], grid)
    assert_as_found(network, before)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(scale, 1))
    assert not found.requires_grad
    torch.testing.assert_close(network_traces(network, [2, 4], grid), found[[1, 3]], rtol=0, atol=0)


def test_stored_statistics_are_used_where_asked_for():
    network = build("residual_mlp", depth=2, width=5, inputs=1, normalise="batch", seed=0).double()
    grid = line(12, dtype=torch.float64)
    with torch.no_grad():
        network(grid)
    expected = input_trace(network, grid, batch_norm="running")["value"]
    found = network_traces(network, [2], grid, batch_norm="running")[0]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    network.eval()
    assert torch.equal(network_traces(network, [2], grid)[0], found)


def test_rows_are_the_statistics_of_the_traces_of_each_draw():
    options = {"normalise": "mean", "width": 12}
    random_state = torch.get_rng_state()
    frame = depth_traces("plain_mlp", [3, 1], seeds=[5, 6], points=32, lags=4, traces=True, **options)
    assert set(zip(frame["depth"], frame["seed"], strict=True)) == {(1, 5), (1, 6), (3, 5), (3, 6), (0, -1)}
    assert torch.equal(torch.get_rng_state(), random_state)
    assert set(frame["family"]) == {"plain_mlp"} and set(frame["points"]) == {32}
    assert set(frame["width"]) == {12} and set(frame["normalise"]) == {"mean"}
    network = build("plain_mlp", depth=3, inputs=1, outputs=1, seed=6, **options).double()
    trace = by_autograd(network, 1, line(32, dtype=torch.float64))
    one = frame[(frame["depth"] == 1) & (frame["seed"] == 6)]
    values = one[one["quantity"] == "input_gradient"]
    assert values["value"].tolist() == pytest.approx(trace.tolist(), rel=1e-12)
    assert values["x"].tolist() == pytest.approx(line(32, dtype=torch.float64).flatten().tolist())
    acf = one[one["quantity"] == "autocorrelation"]
    assert acf["value"].tolist() == pytest.approx(autocorrelation(trace, 4).tolist())
    assert acf["distance"].tolist() == pytest.approx([lag * 4 / 31 for lag in range(5)])
    unresolved = frame[frame["status"] != "ok"]
    assert set(unresolved["quantity"]) <= {"correlation_distance"}
    assert unresolved["reason"].str.contains("not resolved").all()
    assert set(frame[frame["depth"] == 0]["quantity"]) == {"reference"}
    assert "input_gradient" not in set(depth_traces("plain_mlp", 1, seeds=[0], points=16, lags=2)["quantity"])


def test_biases_of_a_deviation_make_kinks_that_biases_at_zero_do_not():
    options = {"seeds": 2, "points": 64, "lags": 3, "traces": True, "width": 40}
    random_state = torch.get_rng_state()
    frames = [
        depth_traces("plain_mlp", [1, 3], **options, **more)
        for more in ({}, {"bias": True}, {"bias_deviation": 0.0}, {"bias_deviation": 0.5})
    ]
    assert torch.equal(torch.get_rng_state(), random_state)
    traces = [f[f["quantity"] == "input_gradient"]["value"].to_numpy() for f in frames]
    np.testing.assert_array_equal(traces[2], traces[1])
    counts = frames[3][frames[3]["quantity"] == "distinct_values"]["value"]
    assert (counts > 10).all() and set(frames[3]["seed"]) == {0, 1, -1}
    for frame in frames[:3]:
        assert (frame[frame["quantity"] == "distinct_values"]["value"] == 2).all()
    assert set(frames[3]["bias"]) == {True} and set(frames[3]["bias_deviation"]) == {0.5}
    network = build("plain_mlp", depth=3, width=40, inputs=1, outputs=1, bias=True, seed=1).double()
    draw_biases(network, 0.5)
    expected = by_autograd(network, 3, line(64, dtype=torch.float64))
    of_one = frames[3].query("quantity == 'input_gradient' and depth == 3 and seed == 1")["value"]
    assert of_one.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    drawn = torch.cat([m.bias.detach() for m in network.modules() if isinstance(m, nn.Linear)])
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.2)


def draw_biases(network: Network, deviation: float, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed ^ 0x9E3779B9)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            drawn = torch.randn(module.bias.shape, dtype=torch.float64, generator=generator)
            module.bias.data = deviation * drawn


def test_noises_of_each_seed_are_white_and_its_running_sum():
    frame = depth_traces("plain_mlp", 2, seeds=[3, 4], points=256, lags=5, width=8, noise=True)
    noise = frame[frame["quantity"] == "input_gradient"]
    assert set(zip(noise["family"], noise["seed"], strict=True)) == set(
        itertools.product(["white noise", "brown noise"], [3, 4])
    )
    assert noise["depth"].isna().all() and noise["width"].isna().all()
    for seed in (3, 4):
        one = noise[noise["seed"] == seed]
        white, brown = (one[one["family"] == f]["value"].to_numpy() for f in ("white noise", "brown noise"))
        np.testing.assert_allclose(brown, np.cumsum(white), rtol=0, atol=1e-12)
        assert abs(white.mean()) < 0.25 and white.std() == pytest.approx(1, rel=0.2)
        lag_1 = [float(autocorrelation(torch.tensor(values), 1)[1]) for values in (white, brown)]
        assert abs(lag_1[0]) < 0.2 and lag_1[1] > 0.9
    plain = depth_traces("plain_mlp", 2, seeds=[3, 4], points=256, lags=5, width=8)
    assert frame[frame["family"] == "plain_mlp"].shape == plain.shape


@pytest.mark.parametrize(
    "given", [{"seeds": 0}, {"seeds": 1.5}, {"seeds": "ab"}, {"depths": 2.0}, {"depths": True}]
)
def test_depths_and_seeds_are_lists_or_numbers(given):
    with pytest.raises(ValueError, match="each a list or their number"):
        depth_traces("plain_mlp", **{"depths": [1], **given})


@pytest.mark.parametrize("given", [{"bias_deviation": -1.0}, {"bias_deviation": 0.1, "bias": False}])
def test_a_deviation_is_of_biases(given):
    with pytest.raises(ValueError, match="bias_deviation is a finite number"):
        depth_traces("plain_mlp", [1], seeds=1, **given)


@pytest.mark.parametrize("family", ["plain_mlp", "residual_mlp"])
def test_without_biases_and_centring_there_are_two_values_at_any_depth(family):
    network = build(family, depth=50, width=30, inputs=1, outputs=1, seed=0).double()
    for trace in network_traces(network, [1, 10, 50], line(256, dtype=torch.float64)):
        assert distinct_values(trace) == 2


@pytest.mark.parametrize("depth", [4, 10])
def test_the_derivative_process_lies_over_the_traces(depth):
    """Ratio of sums over draws, each draw divided by the size of its own trace, so that no network dominates."""
    grid = line(256, dtype=torch.float64)
    sums = np.zeros(3)
    for seed in range(20):
        network = build("plain_mlp", depth=depth, width=100, inputs=1, outputs=1, normalise="mean", seed=seed)
        trace = network_traces(network.double(), [depth], grid)[0]
        z = (trace - trace.mean()) / trace.norm()
        sums += [float((z[: 256 - lag] * z[lag:]).sum()) for lag in (0, 1, 5)]
    process = plain_derivative_process(grid.flatten().numpy(), depth)
    expected = expected_autocorrelation(process.derivative, [1, 5])
    np.testing.assert_allclose(sums[1:] / sums[0], expected, atol=0.1)


TWO = {"normalise": "batch", "branch_layers": 2}
TABLE = [
    ("plain_mlp", {"normalise": "mean"}, 2, 0.974, 0.872),
    ("plain_mlp", {"normalise": "mean"}, 4, 0.949, 0.760),
    ("plain_mlp", {"normalise": "mean"}, 10, 0.751, 0.224),
    ("plain_mlp", {"normalise": "mean"}, 24, 0.015, 0.030),
    ("plain_mlp", {"normalise": "mean"}, 50, 0.028, 0.011),
    ("residual_mlp", {**TWO, "beta": 1.0}, 4, 0.952, 0.776),
    ("residual_mlp", {**TWO, "beta": 1.0}, 10, 0.883, 0.558),
    ("residual_mlp", {**TWO, "beta": 1.0}, 24, 0.801, 0.314),
    ("residual_mlp", {**TWO, "beta": 1.0}, 50, 0.721, 0.195),
    ("residual_mlp", {**TWO, "beta": 0.1}, 4, 0.971, 0.856),
    ("residual_mlp", {**TWO, "beta": 0.1}, 10, 0.947, 0.761),
    ("residual_mlp", {**TWO, "beta": 0.1}, 24, 0.930, 0.694),
    ("residual_mlp", {**TWO, "beta": 0.1}, 50, 0.890, 0.554),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "beta"), [("plain_mlp", None), ("residual_mlp", 1.0), ("residual_mlp", 0.1)]
)
def test_autocorrelations_are_the_printed_ones(family, beta):
    """Mean of per-draw autocorrelations at lags 1 and 5 over 20 networks of 200 units, 256 points on [-2, 2]."""
    rows = [row for row in TABLE if row[0] == family and row[1].get("beta") == beta]
    frame = depth_traces(family, [row[2] for row in rows], seeds=range(20), lags=5, **rows[0][1])
    acf = frame[(frame["quantity"] == "autocorrelation") & (frame["depth"] > 0)]
    means = acf.groupby(["depth", "lag"])["value"].mean()
    for _, _, depth, *printed in rows:
        assert means[depth][[1, 5]].tolist() == pytest.approx(printed, abs=0.1), depth


@pytest.mark.slow
@pytest.mark.parametrize(("points", "printed"), [(64, 0.318), (128, 0.574), (256, 0.759), (512, 0.872)])
def test_white_is_white_at_this_spacing(points, printed):
    """Ten centred layers keep one correlation length whatever the grid; 24 are white at all four spacings."""
    frame = depth_traces("plain_mlp", [10, 24], seeds=range(20), points=points, lags=1, normalise="mean")
    acf = (
        frame[(frame["quantity"] == "autocorrelation") & (frame["lag"] == 1)].groupby("depth")["value"].mean()
    )
    assert acf[10] == pytest.approx(printed, abs=0.1)
    assert abs(acf[24]) < 0.1


class Doubled(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


def stack(*blocks: nn.Module, head: nn.Module | None = None) -> Network:
    return Network(nn.Identity(), blocks, head or nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("network", "depths", "match"),
    [
        (stack(nn.Tanh()), [1], "blocks.0 is Tanh, which has no step"),
        (stack(nn.Sequential(Doubled(1, 1))), [1], r"blocks.0.0 is Doubled, which has no step"),
        (stack(head=nn.Sequential(nn.Linear(1, 1))), [1], "head is Sequential, where the readout"),
        (stack(Residual(nn.ReLU(), nn.Linear(1, 1))), [1], "blocks.0 is Residual, with Linear"),
        (stack(nn.ReLU()), [2], r"within 1 \.\. 1, the network's blocks; got depths \[2\]"),
        (stack(nn.ReLU()), [], r"got depths \[\]"),
        (stack(nn.ReLU(), nn.ReLU()), [2, 1], r"got depths \[2, 1\]"),
    ],
)
def test_networks_that_cannot_be_read_are_named(network, depths, match):
    with pytest.raises(ValueError, match=match):
        network_traces(network, depths, line(8))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: depth_traces("resnet", 3), "family is one of plain_mlp, residual_mlp"),
        (lambda: depth_traces("plain_mlp", 0), "whole numbers from 1"),
        (lambda: depth_traces("plain_mlp", [0, 2]), "whole numbers from 1"),
        (lambda: depth_traces("plain_mlp", 2, seeds=[]), "seeds at least one"),
        (lambda: depth_traces("plain_mlp", 2, inputs=3), "inputs is no option here"),
        (lambda: depth_traces("plain_mlp", 2, beta=1.0), "plain_mlp has no option 'beta'"),
        (lambda: network_traces(stack(), [1], line(8), batch_norm="train"), "constant statistics"),
    ],
)
def test_questions_without_an_answer_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
