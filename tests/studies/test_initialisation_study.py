"""Initialisations compared on one network: means over draws by hand, misfits told, the network left alone."""

import copy
import math

import pytest
import torch
from as_found import assert_as_found, snapshot, used
from scipy.stats import t
from torch import nn

from gradscope import nets
from gradscope.studies.frames import where
from gradscope.studies.gradient_correlation import gradient_correlation
from gradscope.studies.initialisation_study import initialisation_study

ROWS = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(4, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def crelu(seed=0):
    return nets.build(
        "plain_mlp", depth=3, width=6, inputs=5, outputs=2, activation="crelu", seed=seed
    ).double()


def pairwise_R(model, inputs):
    """Definition 1 at the input, example by example."""
    gradients = []
    for x in inputs:
        x = x[None].clone().requires_grad_()
        gradients.append(torch.autograd.grad(model(x).sum(), x)[0].flatten())
    n = len(gradients)
    off = sum(float(gradients[i] @ gradients[j]) for i in range(n) for j in range(n) if i != j) / (
        n * (n - 1)
    )
    return off / (sum(float(g @ g) for g in gradients) / n)


def test_values_are_means_over_draws_with_the_student_interval():
    model = crelu()
    frame = initialisation_study(model, ROWS, ("xavier", "looks_linear"), draws=3, seed=7)
    values = [
        pairwise_R(nets.initialise(copy.deepcopy(model), "xavier", seed=seed), ROWS) for seed in (7, 8, 9)
    ]
    (row,) = where(frame, scheme="xavier", quantity="correlation_R", site="input").to_dict("records")
    spread = torch.tensor(values, dtype=torch.float64)
    assert row["value"] == pytest.approx(float(spread.mean()), abs=1e-12)
    half = t.ppf(0.975, 2) * float(spread.std()) / math.sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - half, row["value"] + half), abs=1e-12)
    assert row["n"] == 3
    linear = where(frame, scheme="looks_linear")
    assert where(linear, site="input")["value"].item() == pytest.approx(1, abs=1e-12)
    assert where(linear, quantity="looks_linear_deviation")["value"].item() < 1e-12
    assert where(frame, scheme="xavier", quantity="looks_linear_deviation")["value"].item() > 0.1


def test_as_given_is_the_network_itself_with_the_interval_over_examples():
    model = crelu()
    frame = where(
        initialisation_study(model, ROWS, ["he"], draws=2), scheme="as given", quantity="correlation_R"
    )
    direct = where(gradient_correlation((model, ROWS), twin=False, theory=False), quantity="correlation_R")
    for column in ("site", "depth", "value", "low", "high"):
        assert frame[column].tolist() == direct[column].tolist()
    assert set(frame["n"]) == {1}


def test_of_a_factory_every_draw_starts_anew():
    frame = initialisation_study(crelu, ROWS, ["he"], draws=3, seed=2)
    (row,) = where(frame, scheme="as given", quantity="correlation_R", site="input").to_dict("records")
    values = [pairwise_R(crelu(seed), ROWS) for seed in (2, 3, 4)]
    assert row["value"] == pytest.approx(sum(values) / 3, abs=1e-12)
    assert row["n"] == 3 and row["low"] < row["value"] < row["high"]


def test_growth_is_zero_for_an_isometry_and_log_two_for_doubling_layers():
    model = nets.build("plain_mlp", depth=8, width=6, outputs=6, activation="crelu", seed=0).double()
    options = {"looks_linear": {"gain": 2.0}}
    for given, rate in ((None, 0.0), (options, math.log(2))):
        frame = initialisation_study(
            model, ROWS.repeat(1, 2)[:, :6], ["looks_linear"], options=given, draws=2
        )
        growth = where(frame, scheme="looks_linear", quantity="gradient_growth_rate")
        assert growth["value"].item() == pytest.approx(rate, abs=1e-10)


def test_what_does_not_fit_is_a_row_with_the_reason():
    frame = initialisation_study(nets.vgg(5, channels=2, width=2).double(), IMAGES, draws=2)
    skipped = where(frame, status="skipped").set_index("scheme")["reason"]
    assert set(skipped.index) == {"looks_linear", "looks_linear_relu", "fixup", "zero_gamma"}
    assert "activation='crelu'" in skipped["looks_linear"]
    assert "max_pool2d" in skipped["looks_linear_relu"]
    assert "branches=" in skipped["fixup"]
    assert "last_norms=" in skipped["zero_gamma"]
    assert frame["scheme"].drop_duplicates().tolist()[0] == "as given"


def test_gradients_that_are_exactly_zero_are_undefined():
    model = nets.build("residual_mlp", depth=2, width=5, branch_layers=2, outputs=2, seed=0).double()
    frame = where(initialisation_study(model, ROWS, ["fixup"], draws=2), scheme="fixup", site="input")
    assert frame["status"].tolist() == ["undefined"] and frame["value"].isna().all()
    assert frame["n"].tolist() == [0] and "non-zero gradient" in frame["reason"].item()


def test_the_network_is_left_as_found():
    model = used(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    )
    model.train()
    before = snapshot(model)
    initialisation_study(model, IMAGES, ["he", "looks_linear_relu"], draws=2)
    assert_as_found(model, before)


def test_embedded_words_have_no_linear_deviation_but_a_correlation():
    model = nn.Sequential(
        nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)
    ).double()
    frame = initialisation_study(
        model, torch.arange(15).reshape(5, 3) % 9, ["he", "looks_linear_relu"], draws=2
    )
    deviation = where(frame, scheme="he", quantity="looks_linear_deviation")
    assert deviation["status"].item() == "undefined" and "floating-point" in deviation["reason"].item()
    assert where(frame, scheme="he", site="input", status="ok")["value"].notna().all()
    assert where(frame, scheme="looks_linear_relu")["status"].tolist() == ["skipped"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((ROWS, []), {}, "needs schemes and a draw"),
        ((ROWS, "he"), {}, "needs schemes and a draw"),
        ((ROWS, ["he"]), {"draws": 0}, "needs schemes and a draw"),
        ((ROWS, ["he"]), {"draws": 1.5}, "and 1.5 draws"),
        ((ROWS, ["he"]), {"options": {"small": {"scale": 1.0}}}, "options are given for 'small'"),
        ((ROWS[:1], ["he"]), {}, "compares examples"),
    ],
)
def test_mistakes_are_told(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        initialisation_study(crelu(), *arguments, **options)


def test_an_unknown_scheme_or_a_factory_of_nothing_is_told():
    with pytest.raises(ValueError, match="it returned NoneType"):
        initialisation_study(lambda seed: None, ROWS, ["he"])
    with pytest.raises(ValueError, match="Did you mean 'he'"):
        initialisation_study(crelu(), ROWS, ["hee"])
