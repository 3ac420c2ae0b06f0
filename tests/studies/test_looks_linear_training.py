"""The cell of the looks-linear training comparison: its starts, its rows, and divergence told rather than hidden."""

import math

import pytest
import torch
from torch import nn

from gradscope.data import digits
from gradscope.nets import looks_linear_deviation
from gradscope.studies.cells.looks_linear import FAMILIES, LEARNING_RATES, RATES, fresh, rate_of, training

HERE = {"epochs": 1, "data": "digits", "seed": 0, "root": None}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_depth_asked_for(family):
    for depth in (8, 20):
        model = fresh(family, depth, 0, digits())
        layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        shortcuts = sum("shortcut" in name and isinstance(m, nn.Conv2d) for name, m in model.named_modules())
        assert len(layers) - shortcuts == depth
    with torch.no_grad():
        assert fresh(family, 10, 0, digits())(digits().test[0][:3]).shape == (3, 10)


def test_only_the_linear_starts_are_linear():
    images = digits().test[0][:8]
    deviations = {
        family: looks_linear_deviation(fresh(family, 8, 0, digits()), images) for family in FAMILIES
    }
    assert {family for family, value in deviations.items() if value < 1e-3} == {
        "looks-linear CReLU",
        "linear",
    }


@pytest.mark.parametrize("family", ["CReLU", "ReLU", "linear"])
def test_every_start_keeps_the_variance_of_its_activations(family):
    """Mean square of the convolutions' outputs over depth, on white images without borders to speak of."""
    growth = [squares_over_depth(fresh(family, 14, seed, digits()), seed) for seed in range(6)]
    assert abs(sum(growth) / len(growth)) < 0.15


def squares_over_depth(model, seed):
    """Logarithm of the factor by which the mean square grows from one convolution to the next."""
    heard = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode, module._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
            module.register_forward_hook(lambda m, i, out: heard.append(float(out.detach().square().mean())))
    with torch.no_grad():
        model(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
    return math.log(heard[-1] / heard[0]) / (len(heard) - 1)


def test_rows_of_a_trained_network_and_what_is_kept_of_it(tmp_path):
    frame = training("linear", 8, folder=tmp_path, **HERE)
    assert frame["quantity"].tolist() == ["train_loss", "train_error", "test_error"]
    assert frame["unit"].tolist() == ["nat", "1", "1"]
    assert frame["status"].tolist() == ["ok"] * 3
    assert frame["value"].between(0, 2.3).all()
    (kept,) = tmp_path.iterdir()
    stamp = kept.stat().st_mtime_ns
    assert training("linear", 8, folder=tmp_path, **HERE)["value"].tolist() == frame["value"].tolist()
    assert kept.stat().st_mtime_ns == stamp


def test_divergence_is_undefined_with_its_reason_and_not_chance():
    frame = training("linear", 20, folder=None, learning_rate=30.0, **HERE)
    assert set(frame["status"]) == {"undefined"} and frame["value"].isna().all()
    assert "training diverged: The loss is" in frame["reason"].iloc[0]


def test_rates_are_of_the_grid_and_fall_beyond_the_deepest():
    for known in RATES.values():
        assert set(known.values()) <= set(LEARNING_RATES)
    assert RATES.keys() == FAMILIES.keys()
    for family, known in RATES.items():
        assert rate_of(family, 8) == known[8] and rate_of(family, 4) == known[8]
        assert rate_of(family, 40) == known[44]
        assert rate_of(family, 88) == known[44] / 2


def test_an_unknown_family_is_told():
    with pytest.raises(ValueError, match="family is one of looks-linear CReLU"):
        training("Tanh", 8, folder=None, **HERE)
