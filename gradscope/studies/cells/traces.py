"""Cells of the traces analysis: one fresh network of a scalar, or a noise, in; one frame out."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.data import line
from gradscope.gradients.input_gradients import input_gradients
from gradscope.instruments.listen import on_output
from gradscope.instruments.sites import Site
from gradscope.measures.activation import active_fraction, co_active_fraction
from gradscope.measures.contiguity import contiguity
from gradscope.measures.trace import (
    autocorrelation,
    distinct_values,
    ljung_box,
    spectral_slope,
    von_neumann_ratio,
)
from gradscope.nets import build
from gradscope.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

WIDTH, POINTS, LAGS = 200, 256, 15

TRACED: dict[str, dict[str, Any]] = {
    "plain, centred": {"name": "plain_mlp", "normalise": "mean"},
    "residual, beta 1": {"name": "residual_mlp", "normalise": "batch", "beta": 1.0, "branch_layers": 2},
    "residual, beta 0.1": {"name": "residual_mlp", "normalise": "batch", "beta": 0.1, "branch_layers": 2},
}
RECIPES: dict[str, dict[str, Any]] = {
    "1/N weights, 1/N biases": {
        "normalise": "none",
        "weights": 1.0,
        "biases": 1.0 / WIDTH,
    },
    "He weights, 1/N biases": {
        "normalise": "none",
        "weights": 2.0,
        "biases": 1.0 / WIDTH,
    },
    "He weights, biases of 1": {"normalise": "none", "weights": 2.0, "biases": 1.0},
    "He weights, centred": {"normalise": "mean", "weights": 2.0, "biases": 0.0},
}
PATTERNS: dict[str, dict[str, Any]] = {
    "plain, biases": {"name": "plain_mlp", "normalise": "none", "bias": True},
    "plain, batch norm": {"name": "plain_mlp", "normalise": "batch"},
    "residual, batch norm, beta 1": {
        "name": "residual_mlp",
        "normalise": "batch",
        "beta": 1.0,
        "branch_layers": 2,
    },
}
NOISES = ("brown noise", "white noise")


def trace(family: str, layers: int, seed: int) -> "pd.DataFrame":
    """The gradient of one fresh network of `TRACED` along [-2, 2] (or a noise), with its statistics.

    200 units, 256 points, frozen statistics, float64. For `NOISES`, `layers` has no meaning and is 0.
    """
    if family in NOISES:
        white = torch.randn(POINTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return _frame(white.cumsum(0) if family == "brown noise" else white, "none")
    model = build(**TRACED[family], depth=layers, width=WIDTH, inputs=1, outputs=1, seed=seed)
    return _read(model.double())


def recipe(name: str, layers: int, seed: int) -> "pd.DataFrame":
    """The trace of a plain network initialised by one of `RECIPES`: what whitens it, and what does not.

    Biases have the variance told, weights that over their fan-in; biases of variance 1/N are those of a notebook whose
    author could not reproduce the paper.
    """
    how = RECIPES[name]
    options = {"normalise": how["normalise"], "bias": how["biases"] > 0}
    model = build("plain_mlp", **options, depth=layers, width=WIDTH, inputs=1, outputs=1, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _redraw(module.weight, math.sqrt(how["weights"] / module.in_features), generator)
            if module.bias is not None:
                _redraw(module.bias, math.sqrt(how["biases"]), generator)
    return _read(model)


def pattern(family: str, layers: int, seed: int) -> "pd.DataFrame":
    """How the rectifiers of the last layer (block) of one network of `PATTERNS` switch along [-2, 2].

    200 units, 256 points, batch statistics frozen; where there is no batch normalisation, biases of standard
    deviation 1. Runs are of consecutive inputs on which a unit does not switch.
    """
    import pandas as pd

    model = build(**PATTERNS[family], depth=layers, width=WIDTH, inputs=1, outputs=1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            _redraw(module.bias, 1.0, generator)
    active = _last_rectifier(model)
    runs = contiguity(active)
    values = {
        "mean_run_length": (float(runs.mean), "inputs"),
        "constant_share": (float(runs.constant), "1"),
        "active_fraction": (float(active_fraction(active)), "1"),
        "co_activation": (float(co_active_fraction(active)), "1"),
    }
    rows: list[dict[str, Any]] = [
        {"quantity": q, "value": v, "unit": unit} for q, (v, unit) in values.items()
    ]
    rows += [
        {"quantity": "runs", "unit": "number", "length": length, "value": float(number)}
        for length, number in enumerate(runs.histogram.tolist())
        if number
    ]
    return pd.DataFrame(rows).assign(status="ok", reason="")


def raster(family: str, layers: int, seed: int, units: int = 40) -> "pd.DataFrame":
    """Which of the first units of the last rectifier are active on which input: rows `unit`, `x`, `value` 0 or 1."""
    import pandas as pd

    model = build(**PATTERNS[family], depth=layers, width=WIDTH, inputs=1, outputs=1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            _redraw(module.bias, 1.0, generator)
    active = _last_rectifier(model)[:, :units].T
    x = line(POINTS).flatten().tolist()
    return pd.DataFrame(
        [
            {"quantity": "active", "unit": "1", "neuron": neuron, "x": place, "value": float(state)}
            for neuron, row in enumerate(active.tolist())
            for place, state in zip(x, row, strict=True)
        ]
    )


@torch.no_grad()
def _redraw(parameter: Tensor, deviation: float, generator: torch.Generator) -> None:
    drawn = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    parameter.copy_(drawn * deviation)


def _last_rectifier(model: nn.Module) -> Tensor:
    """Which units of the last ReLU are active on which point of the line, [points, units]."""
    name, module = [pair for pair in model.named_modules() if isinstance(pair[1], nn.ReLU)][-1]
    heard: list[Tensor] = []
    problem = Problem(model, line(POINTS))
    with problem.prepared(), on_output([Site(name, module)], lambda where, output: heard.append(output > 0)):
        with torch.no_grad():
            problem.outputs(problem.first_batch()[0])
    return heard[0]


def _read(model: nn.Module) -> "pd.DataFrame":
    problem = Problem(model, line(POINTS, dtype=torch.float64))
    return _frame(input_gradients(problem).flatten(), problem.batch_norm_name)


def _frame(values: Tensor, batch_norm: str) -> "pd.DataFrame":
    import pandas as pd

    points = zip(line(POINTS, dtype=torch.float64).flatten().tolist(), values.tolist(), strict=True)
    rows: list[dict[str, Any]] = [
        {"quantity": "input_gradient", "unit": "output per input", "x": x, "value": value}
        for x, value in points
    ]
    rows += [
        {"quantity": "autocorrelation", "lag": lag, "distance": lag * 4 / (POINTS - 1), "value": r}
        for lag, r in enumerate(autocorrelation(values, LAGS).tolist())
    ]
    rows.append({"quantity": "spectral_slope", "value": float(spectral_slope(values))})
    rows.append({"quantity": "von_neumann_ratio", "value": float(von_neumann_ratio(values))})
    test = ljung_box(values, LAGS)
    p_value = float(test.p_value)
    rejected = math.nan if math.isnan(p_value) else float(p_value < 0.05)
    rows.append({"quantity": "ljung_box_p_value", "value": p_value})
    rows.append({"quantity": "ljung_box_rejects_whiteness", "value": rejected})
    rows.append(
        {
            "quantity": "rms_gradient",
            "unit": "output per input",
            "value": float(values.square().mean().sqrt()),
        }
    )
    few = distinct_values(values) < 10
    frame = pd.DataFrame(rows).assign(
        batch_norm=batch_norm, reason="fewer than 10 distinct values" if few else ""
    )
    frame["unit"] = frame["unit"].fillna("1")
    frame["status"] = frame["value"].map(lambda value: "ok" if math.isfinite(value) else "undefined")
    return frame[["batch_norm", "quantity", "unit", "x", "lag", "distance", "value", "status", "reason"]]
