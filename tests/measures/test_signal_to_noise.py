"""Gradient signal-to-noise ratio against numpy's mean and variance over examples."""

import math

import numpy as np
import pytest
import torch

from gradscope.measures.signal_to_noise import SignalToNoise


def gradients(n: int = 12, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, width)) + np.arange(width)


def fed(rows: np.ndarray, chunk: int = 5) -> SignalToNoise:
    ratios = SignalToNoise()
    for part in torch.from_numpy(rows).split(chunk):
        ratios.add(part)
    return ratios


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_it_is_the_squared_mean_over_the_variance(chunk):
    g = gradients()
    ratios = fed(g, chunk)
    np.testing.assert_allclose(ratios.mean(), g.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(ratios.variance(), g.var(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(ratios.ratio(), g.mean(axis=0) ** 2 / g.var(axis=0, ddof=1), rtol=1e-11)
    assert ratios.examples == 12
    found = ratios.summary()
    assert float(found.mean) == pytest.approx(float(ratios.ratio().mean()))
    assert float(found.median) == pytest.approx(float(np.median(ratios.ratio())))


def test_large_equal_parts_do_not_cancel():
    """Mean of squares less the squared mean would lose all sixteen digits here."""
    g = 1e8 + 1e-3 * gradients()
    np.testing.assert_allclose(fed(g).variance(), np.longdouble(g).var(axis=0, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e60])
def test_the_scale_does_not_matter(scale):
    np.testing.assert_allclose(fed(gradients() * scale).ratio(), fed(gradients()).ratio(), rtol=1e-11)


def test_parameters_that_do_not_vary_are_counted_apart():
    g = np.concatenate([gradients(), np.full((12, 2), 0.1), np.zeros((12, 3))], axis=1)
    ratios = fed(g)
    assert torch.isinf(ratios.ratio()[5:7]).all() and torch.isnan(ratios.ratio()[7:]).all()
    found = ratios.summary()
    assert (found.varying, found.constant, found.zero) == (5, 2, 3)
    assert float(found.mean) == pytest.approx(float(fed(gradients()).ratio().mean()))
    dead = fed(np.zeros((3, 2))).summary()
    assert math.isnan(dead.mean) and math.isnan(dead.median) and dead.zero == 2


def test_without_signal_the_ratio_is_about_one_over_the_examples():
    g = np.random.default_rng(1).standard_normal((50, 4000))
    assert float(fed(g).ratio().mean()) == pytest.approx(1 / 50, rel=0.1)


def test_a_gradient_that_is_not_finite_is_not_hidden():
    g = gradients()
    g[3, 1] = math.inf
    assert not math.isfinite(fed(g).summary().mean)


def test_wrong_arguments_are_named():
    ratios = SignalToNoise()
    with pytest.raises(ValueError, match="2 examples or more, got 0"):
        ratios.variance()
    ratios.add(torch.zeros(0, 3))
    ratios.add(torch.ones(1, 3))
    with pytest.raises(ValueError, match="2 examples or more, got 1"):
        ratios.ratio()
    with pytest.raises(ValueError, match=r"shape \[n, 3\], got \[2, 4\]"):
        ratios.add(torch.ones(2, 4))
