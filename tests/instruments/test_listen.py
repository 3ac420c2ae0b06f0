"""What is heard, against what the tensors are."""

from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from networks import NETWORKS, Repeated
from torch import nn

from gradscope.instruments.listen import Heard, first_tensor, on_gradient, on_output
from gradscope.instruments.readings import Readings
from gradscope.instruments.sites import sites


def heard_gradients(model, x, at=None):
    heard = {}
    with on_gradient(sites(model, at), lambda where, gradient: heard.update({where: gradient.clone()})):
        model(x).square().sum().backward()
    return heard


@pytest.mark.parametrize("name", ["out-of-place", "pre-norm transformer", "multi-residual"])
def test_gradients_are_those_of_the_outputs(name):
    specimen = NETWORKS[name]
    model, x = specimen.build(), specimen.inputs()
    outputs = {}
    with on_output(sites(model, "*"), lambda where, output: outputs.update({where.site: output})):
        loss = model(x).square().sum()
    expected = torch.autograd.grad(loss, list(outputs.values()))
    heard = {where.site: gradient for where, gradient in heard_gradients(model, x, "*").items()}
    assert heard.keys() == outputs.keys()
    for site, gradient in zip(outputs, expected, strict=True):
        torch.testing.assert_close(heard[site], gradient)


def test_in_place_layers_are_heard_like_their_out_of_place_twins():
    """Of a batch norm followed by an in-place ReLU: the gradient before the ReLU, not behind it."""
    specimen, twin = NETWORKS["post-activation"], NETWORKS["out-of-place"]
    in_place = heard_gradients(specimen.build(), specimen.inputs())
    out_of_place = heard_gradients(twin.build(), twin.inputs())
    assert in_place.keys() == out_of_place.keys()
    for where in in_place:
        torch.testing.assert_close(in_place[where], out_of_place[where], rtol=1e-12, atol=1e-15)


def test_a_module_used_again_is_heard_at_each_call():
    layer = nn.Linear(2, 2)
    model, heard = Repeated(layer, 3), []
    with on_output(sites(model, "block"), lambda where, output: heard.append(where)):
        model(torch.ones(1, 2))
    assert heard == [Heard("block", 0, 0), Heard("block", 0, 1), Heard("block", 0, 2)]


def test_depth_is_the_order_of_running_not_of_naming():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.last(self.first(x))

    model, depths = Backwards(), {}
    with on_output(sites(model), lambda where, output: depths.update({where.site: where.depth})):
        model(torch.ones(1, 2))
    assert depths == {"first": 0, "last": 1}


def test_outputs_without_gradient_and_without_tensor_are_not_heard():
    class Nothing(nn.Module):
        def forward(self, x):
            return "a text"

    model, heard = nn.Linear(2, 2), []
    with on_gradient(sites(model, ""), lambda where, gradient: heard.append(where)), torch.no_grad():
        model(torch.ones(1, 2))
    with on_output(sites(Nothing(), ""), lambda where, output: heard.append(where)):
        Nothing()(torch.ones(1))
    assert heard == []


def test_the_first_tensor_of_structured_outputs():
    @dataclass
    class Output:
        logits: torch.Tensor

        def values(self):
            return [None, self.logits]

    one = torch.ones(1)
    for output in (one, (one, 2), [None, (one,)], {"a": None, "b": one}, Output(one)):
        assert first_tensor(output) is one
    assert first_tensor(None) is first_tensor("text") is None


def test_readings_are_tidy_and_undefined_values_say_so():
    readings = Readings("steepness", unit="m")
    assert list(readings.frame().columns) == [
        "quantity",
        "unit",
        "site",
        "depth",
        "call",
        "value",
        "status",
        "reason",
    ]
    readings.add(torch.tensor(2.0), Heard("b", 1, 0), lag=3)
    readings.add(float("nan"), Heard("a", 0, 1), lag=4)
    readings.add(1.0, Heard("a", 0, 0), lag=5)
    expected = pd.DataFrame(
        {
            "quantity": "steepness",
            "unit": "m",
            "site": ["a", "a", "b"],
            "depth": [0, 0, 1],
            "call": [0, 1, 0],
            "value": [1.0, float("nan"), 2.0],
            "status": ["ok", "undefined", "ok"],
            "reason": ["", "steepness is not defined for what was read", ""],
            "lag": [5, 4, 3],
        }
    )
    pd.testing.assert_frame_equal(readings.frame(), expected)
    assert len(readings) == 3
