"""Derivatives along a line against differences."""

import pytest
import torch
from as_found import assert_as_found, snapshot
from networks import mlp
from torch import nn

from gradscope.data import line
from gradscope.measures.trace import distinct_values
from gradscope.nets import build
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
