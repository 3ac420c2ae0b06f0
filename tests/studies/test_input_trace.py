"""Derivatives along a line against differences, and what is said of them against the measures themselves."""

import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from networks import mlp
from torch import nn

from gradscope.data import line
from gradscope.gradients.traces.paths import circle, line_between
from gradscope.measures import trace as measures
from gradscope.measures.trace import distinct_values
from gradscope.nets import build, initialise
from gradscope.problem import Problem
from gradscope.studies.input_trace import input_trace


def test_the_trace_is_the_derivative_of_the_summed_outputs():
    model = mlp(1, 8, 8, 3).double()
    grid = torch.linspace(-2, 2, 17, dtype=torch.float64)[:, None]
    frame = input_trace(model, grid)
    step = 1e-6
    with torch.no_grad():
        expected = ((model(grid + step) - model(grid - step)).sum(dim=1) / (2 * step)).tolist()
    assert frame["value"].tolist() == pytest.approx(expected, abs=1e-7)
    assert list(frame.columns) == ["batch_norm", "quantity", "unit", "x", "value", "status", "reason"]
    assert frame["x"].tolist() == pytest.approx(grid.flatten().tolist())


@pytest.mark.parametrize("depth", [1, 10, 50])
def test_without_biases_and_centring_there_are_two_values_at_any_depth(depth):
    model = build("plain_mlp", depth=depth, width=50, inputs=1, outputs=1, seed=0).double()
    trace = torch.tensor(input_trace(model, line(256))["value"])
    assert distinct_values(trace) == 2


def test_the_model_is_as_found():
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    before = snapshot(model)
    input_trace(model, line(16))
    assert_as_found(model, before)


def test_other_inputs_and_modes_are_refused():
    model = nn.Linear(1, 1)
    for inputs in (torch.ones(4), torch.ones(4, 2)):
        with pytest.raises(ValueError, match=r"a line of scalars, shape \[N, 1\]"):
            input_trace(model, inputs)
    with pytest.raises(ValueError, match="no batch_norm='own'"):
        input_trace(model, torch.ones(4, 1), batch_norm="own")


def samples(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def a_problem(**options) -> Problem:
    model = nn.Sequential(nn.Flatten(), mlp(6, 9, 4)).double()
    return Problem(model, (samples(), torch.tensor([0, 1, 2, 3, 0, 1])), **options)


def rows(frame, quantity: str, read: str = "along the path", **more):
    kept = frame[(frame["quantity"] == quantity) & (frame["read"] == read)]
    for column, value in more.items():
        kept = kept[kept[column] == value]
    return kept


@pytest.mark.parametrize("along", ["line", "circle"])
@pytest.mark.parametrize("source", ["output", "logit", "loss", 2])
def test_between_samples_the_slope_is_the_difference_of_the_value(along, source):
    """The component along the path, by differences of the differentiated value a little way along it."""
    problem = a_problem()
    frame = input_trace(problem, between=(4, 1), along=along, points=12, source=source, lags=4)
    x = samples()
    path = line_between(x[4], x[1], 12) if along == "line" else circle(x[4], x[1], 12, centre=x.mean(dim=0))
    step = 1e-6

    def value(points: torch.Tensor) -> torch.Tensor:
        out = problem.model(points)
        named = {"output": out.sum(dim=1), "logit": out[:, 0], "loss": -out.log_softmax(dim=1)[:, 0]}
        return named[source] if isinstance(source, str) else out[:, source]

    with torch.no_grad():
        ahead, behind = (value(path.points + side * step * path.tangents) for side in (1, -1))
    slopes = rows(frame, "input_gradient")
    assert slopes["value"].tolist() == pytest.approx(((ahead - behind) / (2 * step)).tolist(), abs=1e-7)
    assert slopes["x"].tolist() == pytest.approx(path.distances.tolist())
    assert set(frame["batch_norm"]) == {"none"} and set(frame["source"]) == {str(source)}
    assert set(frame["along"]) == {along}


def test_statistics_of_a_path_are_the_measures_of_its_traces():
    problem = a_problem()
    frame = input_trace(problem, between=(0, 1), points=20, lags=5)
    inputs = line_between(*samples()[:2], 20).points.requires_grad_()
    gradient = torch.autograd.grad(problem.model(inputs).sum(), inputs)[0].flatten(1)
    slopes = torch.tensor(rows(frame, "input_gradient")["value"].to_numpy())
    norms = rows(frame, "input_gradient_norm", "whole gradient")["value"].tolist()
    assert norms == pytest.approx(gradient.norm(dim=1).tolist())
    acf = rows(frame, "autocorrelation")
    assert acf["value"].tolist() == pytest.approx(measures.autocorrelation(slopes, 5).tolist())
    spacing = float((samples()[1] - samples()[0]).norm()) / 19
    assert acf["distance"].tolist() == pytest.approx([lag * spacing for lag in range(6)])
    whole = rows(frame, "autocorrelation", "whole gradient")["value"].tolist()
    assert whole == pytest.approx(measures.vector_autocorrelation(gradient, 5).tolist())
    box = measures.ljung_box(slopes, 5)
    single = {
        "spectral_slope": measures.spectral_slope(slopes),
        "von_neumann_ratio": measures.von_neumann_ratio(slopes),
        "ljung_box": box.statistic,
        "ljung_box_p_value": box.p_value,
        "distinct_values": distinct_values(slopes),
        "correlation_distance": spacing * measures.half_lag(measures.autocorrelation(slopes, 10)),
    }
    for quantity, expected in single.items():
        (found,) = rows(frame, quantity)["value"]
        assert found == pytest.approx(float(expected), nan_ok=True), quantity


def test_references_hold_what_noise_does():
    frame = input_trace(nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)), line(256), lags=15)
    noise = rows(frame, "reference", statistic="autocorrelation")
    white = noise[(noise["noise"] == "white noise") & (noise["lag"] > 0)]
    assert abs(white["value"] + 1 / 256).max() < 0.01
    assert abs(white["low"] + 1.96 / 16).max() < 0.03 and abs(white["high"] - 1.96 / 16).max() < 0.03
    brown = noise[noise["noise"] == "brown noise"].set_index("lag")["value"]
    assert brown[[1, 5, 15]].tolist() == pytest.approx([0.971, 0.862, 0.629], abs=0.02)
    slopes = rows(frame, "reference", statistic="spectral_slope").set_index("noise")
    assert slopes["value"].tolist() == pytest.approx([0.01, -1.98], abs=0.05)
    band = slopes["high"] - slopes["low"]
    assert band.tolist() == pytest.approx([4 * 0.23] * 2, rel=0.15)


def test_few_values_and_no_variance_are_told():
    steps = build("plain_mlp", depth=3, width=20, inputs=1, outputs=1, seed=0).double()
    frame = input_trace(steps, line(64), lags=5)
    acf = rows(frame, "autocorrelation")
    assert set(acf["reason"]) == {"fewer than 10 distinct values: steps, not noise"}
    assert rows(frame, "distinct_values")["value"].tolist() == [2]
    constant = input_trace(nn.Linear(1, 1).double(), line(64), lags=5, refine=True)
    acf = rows(constant, "autocorrelation")
    assert set(acf["status"]) == {"undefined"} and set(acf["reason"]) == {
        "the trace has no variance beyond rounding"
    }
    assert acf["value"].isna().all()
    (level,) = rows(constant, "lag_1_autocorrelation")["reason"]
    assert level == "the trace has no variance beyond rounding"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_that_looks_linear_has_no_trace_but_rounding(dtype):
    model = build("plain_mlp", depth=20, width=32, inputs=8, outputs=4, activation="crelu", seed=0)
    initialise(model, "looks_linear", seed=0).to(dtype)
    inputs = torch.randn(6, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    frame = input_trace((model, inputs), between=(0, 1), lags=5, points=64, refine=True)
    found = frame[frame["quantity"].isin(["autocorrelation", "correlation_distance", "spectral_slope"])]
    assert set(found["read"]) == {"along the path", "whole gradient"}
    assert found["value"].isna().all() and set(found["status"]) == {"undefined"}
    assert rows(frame, "distinct_values")["value"].tolist() == [1]
    assert len(rows(frame, "lag_1_autocorrelation")) == 1


@pytest.mark.parametrize("between", [3, (0,), (0, 1.5), "01"])
def test_between_is_two_numbers(between):
    with pytest.raises(ValueError, match="names two samples"):
        input_trace((nn.Linear(3, 2), torch.randn(4, 3)), between=between)


def test_statistics_of_the_batch_mix_the_points():
    network = build("plain_mlp", depth=2, width=4, inputs=1, normalise="batch", seed=0)
    with pytest.warns(UserWarning, match="train"):
        input_trace(network, line(16), batch_norm="train")


def wave(cycles: float) -> nn.Module:
    """A network of a scalar whose derivative is a cosine with so many cycles on [-2, 2]."""

    class Wave(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x * (cycles * 2 * math.pi / 4))

    return Wave()


def test_refinement_stops_where_neighbours_agree_and_tells_the_distance():
    """The autocorrelation of a cosine of wavelength w is cos(2 pi d / w), which is 1/2 at w / 6."""
    frame = input_trace(wave(20), line(32, dtype=torch.float64), refine=True)
    levels = rows(frame, "lag_1_autocorrelation")
    assert levels["points"].tolist() == [32, 64, 128]
    assert (levels["value"].iloc[:-1] <= 0.5).all() and levels["value"].iloc[-1] > 0.5
    assert levels["distance"].tolist() == pytest.approx([4 / 31, 4 / 63, 4 / 127], rel=1e-6)
    assert set(rows(frame, "input_gradient")["points"]) == {128}
    (distance,) = rows(frame, "correlation_distance")["value"]
    assert distance == pytest.approx(4 / 20 / 6, rel=0.1)


def test_what_is_not_resolved_says_at_which_distance():
    frame = input_trace(wave(20), line(32, dtype=torch.float64), refine=True, max_points=100)
    assert rows(frame, "lag_1_autocorrelation")["points"].tolist() == [32, 64]
    (row,) = rows(frame, "correlation_distance").to_dict("records")
    assert math.isnan(row["value"]) and row["status"] == "undefined"
    assert (row["low"], row["high"]) == (0, pytest.approx(4 / 63))
    assert "not resolved" in row["reason"] and "0.0635" in row["reason"]
    assert rows(frame, "lag_1_autocorrelation")["reason"].tolist() == ["", "not resolved with max_points=100"]


def test_a_smooth_trace_is_followed_beyond_the_lags_shown():
    frame = input_trace(wave(1), line(256, dtype=torch.float64), lags=5)
    (distance,) = rows(frame, "correlation_distance")["value"]
    assert 0.4 < distance < 4 / 6
    slow = rows(input_trace(wave(0.2), line(64, dtype=torch.float64), lags=3), "correlation_distance")
    assert slow["value"].iloc[0] > 3 * 4 / 63


def test_traces_that_are_not_finite_are_undefined_and_not_hidden():
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sqrt()

    frame = input_trace(Root(), line(16, dtype=torch.float64), lags=3)
    undefined = frame[frame["value"].isna()]
    assert len(undefined) and set(undefined["status"]) == {"undefined"} and (undefined["reason"] != "").all()
    assert set(rows(frame, "autocorrelation")["reason"]) == {"the trace is not finite"}


def test_frozen_statistics_are_those_of_the_path():
    model = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)).double()
    data = samples().flatten(1)[:, :2]
    frame = input_trace((used(model), data), between=(0, 1), points=9, lags=2)
    assert set(frame["batch_norm"]) == {"frozen"}
    points = line_between(data[0], data[1], 9).points
    with torch.no_grad():
        hidden = model[0](points)
        model[1].running_mean.copy_(hidden.mean(dim=0))
        model[1].running_var.copy_(hidden.var(dim=0, correction=0))
    model[1].num_batches_tracked += 1
    stored = input_trace((model, data), between=(0, 1), points=9, lags=2, batch_norm="running", block_size=2)
    assert set(stored["batch_norm"]) == {"running"}
    expected = rows(stored, "input_gradient")["value"].tolist()
    assert rows(frame, "input_gradient")["value"].tolist() == pytest.approx(expected)


def test_a_model_with_traces_of_use_is_as_found_also_after_an_error():
    problem = a_problem()
    used(problem.model)
    problem.model.train()
    before = snapshot(problem.model)
    input_trace(problem, between=(0, 1), points=16, along="circle", refine=True)
    assert_as_found(problem.model, before)
    with pytest.raises(RuntimeError, match="stop"):
        input_trace(problem, between=(0, 1), source=stop)
    assert_as_found(problem.model, before)


def stop(*_: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("stop")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: input_trace(nn.Linear(1, 1)), "A model alone has no inputs"),
        (lambda: input_trace(a_problem(), between=(0, 6)), r"has 0 \.\. 5"),
        (lambda: input_trace(a_problem(), between=(0, 1), along="arc"), "along is one of line, circle"),
        (lambda: input_trace(a_problem()), r"got \[6, 3, 2\]; or a path between two samples"),
        (lambda: input_trace(a_problem(), between=(0, 1), batch_norm="train"), "of its own. Set it there"),
        (lambda: input_trace(a_problem(batch_norm="own"), between=(0, 1)), "no batch_norm='own'"),
        (lambda: input_trace(wave(1), line_between(*samples()[:2], 9), refine=True), "refine makes the path"),
        (lambda: input_trace((nn.Embedding(4, 2), torch.ones(3).long()), between=(0, 1)), "floating-point"),
        (lambda: input_trace(wave(1), line(16), lags=16), "more than 16 values"),
    ],
)
def test_questions_without_an_answer_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
