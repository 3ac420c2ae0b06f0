"""The probe against a loop over pairs of examples and units."""

import itertools

import pytest
import torch
from torch import nn

from gradscope.nets import build
from gradscope.probes import co_activation


@pytest.mark.parametrize("in_place", [False, True])
def test_readings_are_the_loop_over_pairs(in_place):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=in_place))
        x = torch.randn(5, 3)
    active = (model[0](x) > 0).tolist()
    pairs = list(itertools.permutations(range(5), 2))
    expected = sum(active[i][u] and active[j][u] for i, j in pairs for u in range(6)) / (len(pairs) * 6)
    with co_activation(model, at="*") as readings, torch.no_grad():
        model(x)
    assert readings.frame()["value"].tolist() == pytest.approx([expected, expected], abs=1e-15)


def test_centring_keeps_a_quarter_and_its_lack_makes_units_redundant():
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    deepest = {}
    for normalise in ("mean", "none"):
        model = build("plain_mlp", depth=20, width=128, normalise=normalise, seed=0)
        with co_activation(model, at="blocks.*") as readings, torch.no_grad():
            model(x)
        deepest[normalise] = readings.frame()["value"].iloc[-1]
    assert deepest["mean"] == pytest.approx(0.25, abs=0.02)
    assert deepest["none"] > 0.35
