"""Gradient correlation beside its plain twin and theory, and what is said of them in words."""

import numpy as np
import pytest
import torch
from as_found import assert_as_found, snapshot
from torch import nn

import gradscope as gs
from gradscope.gradients.input_gradients import input_gradients
from gradscope.nets import build


def gaussian(examples: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(examples, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value(frame, quantity: str, site: str = "input") -> float:
    (found,) = frame[(frame["quantity"] == quantity) & (frame["site"] == site)]["value"]
    return found


class Block(nn.Module):
    """Written by a stranger: x + F(x) with the sum in the forward, and a skip that can be left out."""

    def __init__(self, width: int, skip: bool = True):
        super().__init__()
        self.norm, self.linear, self.skip = nn.BatchNorm1d(width), nn.Linear(width, width), skip

    def forward(self, x):
        branch = self.linear(torch.relu(self.norm(x)))
        return x + branch if self.skip else branch


def stranger(skip: bool, width: int = 6, blocks: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(*(Block(width, skip) for _ in range(blocks)), nn.Linear(width, 2)).double()


def test_the_twin_is_the_same_network_without_its_skips():
    x = gaussian(7, 6)
    frame = gs.gradient_correlation((stranger(skip=True), x), theory=False)
    plain = gs.gradient_correlation((stranger(skip=False), x), theory=False)
    assert not plain["quantity"].str.startswith("twin").any()
    twin = frame[frame["quantity"].str.startswith("twin_")].reset_index(drop=True)
    assert list(twin["site"]) == list(plain["site"]) and set(twin["status"]) == {"ok"}
    np.testing.assert_allclose(twin["value"], plain["value"], atol=1e-12)
    assert abs(value(frame, "twin_correlation_R") - value(frame, "correlation_R")) > 0.1


def test_a_twin_that_cannot_be_had_is_told():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x):
            return torch.addmm(x, torch.tanh(x), self.inner.weight)

    frame = gs.gradient_correlation((nn.Sequential(Scaled(), nn.Linear(6, 1)).double(), gaussian(5, 6)))
    twin = frame[frame["quantity"].str.startswith("twin_")]
    assert len(twin) and (twin["status"].isin(["ok", "skipped"])).all()
    assert (twin["reason"][twin["status"] == "skipped"].str.len() > 20).all()


def test_stored_statistics_of_the_intact_network_are_not_the_twins():
    model = stranger(skip=True)
    with torch.no_grad():
        model.train()
        model(gaussian(64, 6, seed=2))
        model.eval()
    frame = gs.gradient_correlation((model, gaussian(7, 6)))
    modes = frame.groupby(frame["quantity"].str.startswith("twin_"))["batch_norm"].unique()
    assert list(modes[False]) == ["running"] and list(modes[True]) == ["frozen"]


def test_the_model_is_left_as_found():
    model = stranger(skip=True)
    before = snapshot(model)
    gs.gradient_correlation((model, gaussian(7, 6)))
    assert_as_found(model, before)


def test_sources_are_the_gradients_of_what_they_say():
    model, x = stranger(skip=False), gaussian(6, 6)
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    by_number = [gs.gradient_correlation((model, (x, y)), source=k, at="3") for k in (0, 1)]
    by_function = gs.gradient_correlation(
        (model, (x, y)), source=lambda outputs, targets: outputs[:, 1], at="3"
    )
    np.testing.assert_allclose(by_number[1]["value"], by_function["value"])
    logit = gs.gradient_correlation((model, (x, y)), source="logit", at="3")
    own = gs.gradient_correlation(
        (model, (x, y)), source=lambda outputs, targets: outputs[torch.arange(6), targets], at="3"
    )
    np.testing.assert_allclose(logit["value"], own["value"])
    assert set(by_function["source"]) == {"<lambda>"} and set(logit["source"]) == {"logit"}


def test_mean_cosine_has_the_jackknife_of_directions():
    model, x = stranger(skip=False), gaussian(9, 6)
    frame = gs.gradient_correlation(gs.Problem(model, x), twin=False, theory=False, at="3")
    row = frame[(frame["quantity"] == "mean_cosine") & (frame["site"] == "input")].iloc[0]
    gradients = torch.nn.functional.normalize(input_gradients(gs.Problem(model, x)), dim=1)

    def mean_cosine(rows: torch.Tensor) -> float:
        n = len(rows)
        return float(((rows @ rows.T).sum() - n) / (n * (n - 1)))

    without = torch.tensor([mean_cosine(torch.cat([gradients[:i], gradients[i + 1 :]])) for i in range(9)])
    error = 1.959964 * float((8 / 9 * (without - without.mean()).square().sum()).sqrt())
    assert row["value"] == pytest.approx(mean_cosine(gradients), abs=1e-12) and row["n_pairs"] == 36
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - error, row["value"] + error), abs=1e-6)


def test_centred_gradients_are_pinned_and_said_to_be_centred():
    frame = gs.gradient_correlation((stranger(skip=True), gaussian(9, 6)), centred=True)
    assert frame["centred"].all() and "theory_correlation_R" not in set(frame["quantity"])
    assert value(frame, "correlation_R") == pytest.approx(-1 / 8, abs=1e-12)
    assert value(frame, "twin_correlation_R") == pytest.approx(-1 / 8, abs=1e-12)
    # The gradient at the readout is the same for all examples, so that nothing is left of it.
    assert set(frame[frame["site"] == "3"]["status"]) == {"undefined"}
    assert not gs.gradient_correlation((stranger(skip=True), gaussian(9, 6)))["centred"].any()


READINGS = {
    "shattered": (
        dict(name="plain_mlp", depth=10, normalise="mean"),
        "shattered: the gradients of different examples",
    ),
    "in touch": (
        dict(name="residual_mlp", depth=10, normalise="batch", beta=0.1),
        "in touch: most of a gradient",
    ),
    "partly": (dict(name="residual_mlp", depth=6, normalise="batch", beta=1.0), "partly shattered"),
}


@pytest.mark.parametrize("name", READINGS)
def test_what_is_said_of_networks_whose_correlation_is_known(name):
    options, said = READINGS[name]
    model = build(**options, width=128, outputs=1, seed=0)
    told = gs.shattering_reading(gs.gradient_correlation((model, gaussian(64, 128, dtype=torch.float32))))
    assert said in told and "Theory for infinite width" in told
    assert ("With the skips cut it would be" in told) == options["name"].startswith("residual")
    if options["name"].startswith("residual"):
        assert "the skips keep up what agreement there is" in told


def test_what_is_undefined_is_said_to_be():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    told = gs.shattering_reading(gs.gradient_correlation((model, gaussian(5, 4))))
    assert told == "R at the input is undefined: 0 examples have a non-zero gradient."


def test_the_reading_warns_of_the_loss_and_of_mixed_examples():
    model, data = stranger(skip=False), (gaussian(8, 6), torch.tensor([0, 1] * 4))
    assert "factor p - y" in gs.shattering_reading(gs.gradient_correlation((model, data), source="loss"))
    mixed = gs.Problem(model, data, batch_norm="train")
    with pytest.warns(UserWarning, match="mixes its examples"):
        assert "a row mixes examples" in gs.shattering_reading(gs.gradient_correlation(mixed))


def test_a_frame_of_something_else_is_refused():
    with pytest.raises(ValueError, match="reads what gradient_correlation returns"):
        gs.shattering_reading(gs.gradient_correlation((stranger(False), gaussian(5, 6))).iloc[:0])
