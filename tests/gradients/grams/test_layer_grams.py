"""Every layer's Gram against an explicit loop over batches of one example, for every kind of layer."""

import pytest
import torch

from gradscope.gradients.layer_grams import layer_grams
from gradscope.problem import Problem
from tests.gradients.grams.gram_cases import CASES, case
from tests.gradients.grams.gram_loops import loop, output_loop

# Kinds that no rule reads off the graph.
ASKED = {
    "conv3d": {"body.0"},
    "conv transposed": {"body.0"},
    "weight norm": {"0"},
    "parametrized": {"0.parametrizations.weight"},
    "custom function": {""},
    "overlapping pieces": {""},
    "instance norm": {"body.0"},
    "bag of tokens": {"0"},
    "low rank": {"", "base"},
    "prelu": {"1"},
    "bilinear": {"bilinear"},
    "windows": {""},
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_layer_is_that_of_the_loop(name):
    net, (x, y) = case(name)
    grams = layer_grams(Problem(net, (x, y)))
    rows = loop(net, x, y)
    assert sorted(n for gram in grams.values() for n in gram.parameters) == sorted(rows)
    for layer, gram in grams.items():
        assert (gram.engine == "fallback") == (layer in ASKED.get(name, ())), gram.reason
        if not gram.parameters:
            assert gram.parameter is None and "counted at the layer that holds them first" in gram.reason
            continue
        gradients = torch.cat([rows[n] for n in gram.parameters], dim=1)
        torch.testing.assert_close(
            gram.parameter, gradients @ gradients.T, msg=lambda m, n=layer: f"{n}: {m}"
        )
        torch.testing.assert_close(gram.parameter_log_norms, gradients.norm(dim=1).log())


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_loop(name):
    net, (x, y) = case(name)
    for layer, gram in layer_grams(Problem(net, (x, y))).items():
        if gram.output is None:
            assert "output" in gram.reason
            continue
        gradients = output_loop(net, x, y, layer)
        torch.testing.assert_close(gram.output, gradients @ gradients.T, msg=lambda m, n=layer: f"{n}: {m}")
        torch.testing.assert_close(gram.output_log_norms, gradients.norm(dim=1).log())
