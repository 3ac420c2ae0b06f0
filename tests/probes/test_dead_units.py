"""The probes of units that never switch against a loop over units, and against the law for correlated inputs."""

import math

import pytest
import torch
from torch import nn

from gradscope.probes import dead_units, units_always_on


@pytest.mark.parametrize("in_place", [False, True])
def test_readings_are_the_loop_over_units(in_place):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(3, 12), nn.ReLU(inplace=in_place)).double()
        x = torch.randn(4, 3, dtype=torch.float64)
    active = (model[0](x) > 0).T.tolist()
    dead = sum(not any(unit) for unit in active) / 12
    always = sum(all(unit) for unit in active) / 12
    assert 0 < dead != always > 0
    with dead_units(model, at="*") as off, units_always_on(model, at="*") as on, torch.no_grad():
        model(x)
    assert off.frame()["value"].tolist() == pytest.approx([dead, dead], abs=1e-15)
    assert on.frame()["value"].tolist() == pytest.approx([always, always], abs=1e-15)


def test_units_fed_by_correlated_inputs_are_dead_as_often_as_theory_says():
    """Share of units inactive on B examples of pairwise correlation r: E_z[Phi(-z sqrt(r / (1 - r)))^B]."""
    examples, features, r = 16, 4000, 0.8
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, features, generator=generator, dtype=torch.float64)
    own = torch.randn(examples, features, generator=generator, dtype=torch.float64)
    x = math.sqrt(r) * shared + math.sqrt(1 - r) * own
    model = nn.Linear(features, 3000, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(3000, features, generator=generator, dtype=torch.float64))
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    expected = torch.trapezoid(density * torch.special.ndtr(-z * math.sqrt(r / (1 - r))) ** examples, z)
    with dead_units(model, at="") as off, units_always_on(model, at="") as on, torch.no_grad():
        model(x)
    assert off.frame()["value"].item() == pytest.approx(float(expected), abs=0.03)
    assert on.frame()["value"].item() == pytest.approx(float(expected), abs=0.03)
