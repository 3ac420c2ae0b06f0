"""A description of a network finds the law that the network follows, or a reason why there is none."""

import inspect
import math

import numpy as np
import pytest

import gradscope.theory as theory
from gradscope.theory import law_for
from tests.theory.simulated import correlation_R, relu_network

DEPTHS = np.array([1, 4, 10])


def along(profile):
    return profile.gradient_correlation[DEPTHS - 1]


CASES = {
    "plain": (("plain", {}), "plain_correlation", along(theory.plain_correlation(10))),
    "plain, alike": (("plain", {"rho": 0.4}), "plain_correlation", along(theory.plain_correlation(10, 0.4))),
    "plain, centred": (
        ("plain", {"normalisation": "mean"}),
        "plain_centred",
        theory.plain_centred(DEPTHS),
    ),
    "plain, batch norm": (
        ("plain", {"normalisation": "batch", "examples": 8}),
        "plain_centred",
        theory.plain_centred(DEPTHS, 8),
    ),
    "plain, trained statistics": (
        ("plain", {"normalisation": "batch", "statistics": "train", "examples": 8}),
        "train_batch_norm_correlation",
        np.full(3, -1 / 7),
    ),
    "residual": (
        ("residual", {"beta": 0.3}),
        "residual_correlation",
        along(theory.residual_correlation(10, 1.0, 0.3)),
    ),
    "residual, two layers": (
        ("residual", {"branch_layers": 2}),
        "residual_correlation",
        along(theory.residual_correlation(10, branch_layers=2)),
    ),
    "residual, centred": (
        ("residual", {"normalisation": "mean", "alpha": 0.8, "beta": 0.6}),
        "residual_centred",
        theory.residual_centred(DEPTHS, 0.8, 0.6),
    ),
    "residual, batch norm": (
        ("residual", {"normalisation": "batch", "beta": 0.1}),
        "residual_batch_norm",
        theory.residual_batch_norm(DEPTHS, 0.1),
    ),
    "residual, batch norm, wide stream": (
        ("residual", {"normalisation": "batch", "input_variance": 2.5}),
        "residual_batch_norm",
        theory.residual_batch_norm(DEPTHS, 1.0, input_variance=2.5),
    ),
    "pre-activation ResNet": (
        ("residual", {"normalisation": "batch", "branch_layers": 2}),
        "residual_batch_norm_branches",
        theory.residual_batch_norm_branches(DEPTHS, 1.0, 2),
    ),
    "highway": (("highway", {}), "highway_uncentred", theory.highway_uncentred(DEPTHS)),
    "highway, centred": (("highway", {"normalisation": "mean"}), "highway", theory.highway(DEPTHS)),
    "tanh": (
        ("plain", {"activation": "tanh", "weight_variance": 1.5, "input_variance": 0.7}),
        "activation_correlation",
        along(theory.activation_correlation(10, "tanh", weight_variance=1.5, variance=0.7)),
    ),
    "residual gelu": (
        ("residual", {"activation": "gelu", "beta": 0.5}),
        "residual_activation_correlation",
        along(theory.residual_activation_correlation(10, "gelu", output_weight_variance=0.25)),
    ),
    "leaky": (
        ("plain", {"activation": "leaky_relu", "negative_slope": 0.2}),
        "leaky_relu_correlation",
        along(theory.leaky_relu_correlation(10, 0.2)),
    ),
    "leaky, centred": (
        ("plain", {"activation": "prelu", "negative_slope": 0.25, "normalisation": "mean"}),
        "residual_centred",
        ((0.75**2 / 2 + 0.5) / (1 + 0.25**2)) ** DEPTHS,
    ),
    "looks linear": (
        ("plain", {"activation": "crelu", "initialisation": "looks_linear"}),
        "looks_linear_singular_values",
        np.ones(3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_law_is_found_and_says_the_same_as_its_function(case):
    (family, options), name, expected = CASES[case]
    law = law_for(family, **options)
    assert law.known
    assert law.name == name
    assert name in theory.__all__
    np.testing.assert_allclose(law.correlation(DEPTHS), expected, rtol=1e-12)
    np.testing.assert_allclose(law.correlation(4), expected[1], rtol=1e-12)
    assert law.conditions
    assert law.source
    assert law.reason == ""


@pytest.mark.parametrize("case", CASES)
def test_law_by_layer_begins_with_that_of_the_whole_net(case):
    (family, options), _, _ = CASES[case]
    law = law_for(family, **options)
    found = law.by_layer(6)
    assert found.shape == (6,)
    assert found[0] == pytest.approx(float(law.correlation(6)), rel=1e-12)
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize(
    ("family", "normalisation", "factors"),
    [
        ("plain", "none", (0.0, 1.0)),
        ("residual", "batch", (1.0, 1.0)),
        ("highway", "mean", (math.sqrt(0.9), math.sqrt(0.1))),
        ("highway", "none", (math.sqrt(0.9), math.sqrt(0.1))),
    ],
)
def test_law_by_layer_is_that_of_a_network_read_at_each(family, normalisation, factors):
    """N = 256, B = 64 orthogonal inputs, 10 layers, 4 nets."""
    found = np.zeros((4, 10))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        inputs = np.linalg.qr(rng.standard_normal((256, 64)))[0] * 16
        alpha, beta = factors
        layers = relu_network(inputs, 10, rng, alpha=alpha, beta=beta, normalisation=normalisation)
        g = np.repeat(rng.standard_normal((256, 1)), 64, axis=1)
        for position, layer in reversed(list(enumerate(layers))):
            g = layer.back(g)
            found[seed, position] = correlation_R(g)
    law = law_for(family, normalisation=normalisation).by_layer(10)
    np.testing.assert_allclose(found.mean(axis=0), law, atol=0.03)


def test_by_layer_needs_a_law_and_one_that_does_not_underflow():
    with pytest.raises(ValueError, match="nothing to draw: no law known"):
        law_for("transformer").by_layer(3)
    with pytest.raises(FloatingPointError, match="Take fewer"):
        law_for("plain", normalisation="mean").by_layer(2000)


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("transformer", {}, "'transformer'"),
        ("plain", {"normalisation": "layer"}, "'layer'"),
        ("plain", {"initialisation": "xavier"}, "'xavier'"),
        ("plain", {"activation": "selu"}, "'selu'"),
        ("plain", {"activation": "crelu"}, "'crelu'"),
        ("plain", {"activation": "tanh", "normalisation": "batch"}, "without normalisation"),
        ("residual", {"activation": "prelu"}, "only in plain nets"),
        ("residual", {"normalisation": "batch", "statistics": "train"}, "no skip leads around"),
        ("plain", {"normalisation": "batch", "statistics": "train"}, "number of examples"),
        ("residual", {"normalisation": "batch", "alpha": 0.5}, "skip factor 1"),
        ("residual", {"initialisation": "looks_linear", "activation": "crelu"}, "plain nets"),
        ("highway", {"normalisation": "batch"}, "one mean-centred ReLU"),
        ("highway", {"branch_layers": 2}, "one ReLU a branch"),
    ],
)
def test_other_networks_have_no_law_and_a_reason(family, options, reason):
    law = law_for(family, **options)
    assert not law.known
    assert (law.name, law.correlation) == ("", None)
    assert law.reason.startswith("no law known for this network: ")
    assert reason in law.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1}, "beta must be at least 0"),
        ({"branch_layers": 0}, "branch_layers is a whole number"),
        ({"rho": 3}, "rho is a correlation"),
        ({"examples": 1}, "examples is a whole number of at least 2"),
    ],
)
def test_numbers_outside_their_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        law_for("residual", **options)


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ({"family": "resnet"}, "Did you mean 'residual'?"),
        ({"family": "plain_mlp"}, "Did you mean 'plain'?"),
        ({"family": "plain", "normalisation": "batch_norm"}, "Did you mean 'batch'?"),
        ({"family": "plain", "initialisation": "looks-linear"}, "Did you mean 'looks_linear'?"),
        ({"family": "plain", "activation": "ReLU"}, "Did you mean 'relu'?"),
    ],
)
def test_an_unknown_word_is_told_the_nearest_known_one(words, near):
    law = law_for(**words)
    assert not law.known and near in law.reason
    assert "Did you mean" not in law_for("transformer", activation="zzz").reason


def test_signatures_of_the_room_name_their_types():
    for name in theory.__all__:
        function = getattr(theory, name)
        if callable(function) and not isinstance(function, type):
            assert "_NestedSequence" not in str(inspect.signature(function)), name
