"""Noise scale: unbiased parts, both estimators, and what happens where there is more noise than signal."""

import itertools
import math

import numpy as np
import pytest
import torch

from gradscope.measures.gram_noise_scale import (
    averaged_noise_scale,
    noise_scale,
    subset_squares,
    two_batch_noise_scale,
)


def gradients(n: int, seed: int = 0, signal: float = 1.0, width: int = 6) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return signal * np.arange(1, width + 1) / width + draw.standard_normal((n, width))


def gram(g: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(g @ g.T)


def test_the_parts_are_those_of_the_sample_covariance():
    """tr(Sigma) with B - 1 in the denominator, and |mean|^2 less its own noise."""
    g = gradients(9)
    found = noise_scale(gram(g))
    trace = np.trace(np.cov(g.T))
    square = np.sum(g.mean(axis=0) ** 2) - trace / 9
    assert float(found.covariance_trace) == pytest.approx(trace, rel=1e-12)
    assert float(found.squared_gradient) == pytest.approx(square, rel=1e-12)
    assert float(found.simple) == pytest.approx(trace / square, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e140])
def test_the_parts_bear_the_scale_squared_and_the_ratio_none(scale):
    plain, scaled = noise_scale(gram(gradients(9))), noise_scale(gram(gradients(9) * scale))
    assert float(scaled.simple) == pytest.approx(float(plain.simple), rel=1e-11)
    expected = float(plain.covariance_trace) * scale**2
    assert float(scaled.covariance_trace) == pytest.approx(expected, rel=1e-11)


def test_a_mean_loss_divides_the_parts_by_the_square_of_the_batch():
    plain, divided = noise_scale(gram(gradients(9))), noise_scale(gram(gradients(9) / 9))
    assert float(divided.squared_gradient) == pytest.approx(float(plain.squared_gradient) / 81, rel=1e-12)


def test_the_parts_are_unbiased():
    """Over 2000 batches of four, within five standard errors of |G|^2 and tr(Sigma)."""
    truth = np.sum((np.arange(1, 7) / 6) ** 2), 6.0
    parts = [noise_scale(gram(gradients(4, seed))) for seed in range(2000)]
    for index, expected in enumerate(truth):
        values = np.array([float(part[index]) for part in parts])
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(len(values))
    averaged = averaged_noise_scale(parts)
    assert float(averaged.simple) == pytest.approx(truth[1] / truth[0], rel=0.05)


def test_no_signal_gives_no_ratio_rather_than_a_clipped_one():
    found = noise_scale(torch.eye(4) - 1 / 4)
    assert float(found.squared_gradient) == pytest.approx(-1 / 4) and math.isnan(found.simple)
    assert float(found.covariance_trace) == pytest.approx(1)
    same = noise_scale(torch.ones(4, 4))
    assert [float(part) for part in same] == pytest.approx([1, 0, 0], abs=1e-15)


def test_two_sizes_averaged_over_all_subsets_are_the_estimate_of_one_batch():
    """An identity: each pair of examples is in as many subsets as any other."""
    k = gram(gradients(6))
    small = [k[list(s)][:, list(s)].sum() / 9 for s in itertools.combinations(range(6), 3)]
    large = torch.full((len(small),), float(k.sum() / 36), dtype=torch.float64)
    two, one = two_batch_noise_scale(torch.stack(small), large, 3, 6), noise_scale(k)
    for part, expected in zip(two, one, strict=True):
        assert float(part) == pytest.approx(float(expected), rel=1e-12)


def test_the_two_size_estimator_finds_the_truth():
    draw = np.random.default_rng(1)
    mean = np.arange(1, 7) / 6
    small, large = (
        torch.tensor([np.sum((mean + draw.standard_normal(6) / math.sqrt(b)) ** 2) for _ in range(4000)])
        for b in (4, 64)
    )
    found = two_batch_noise_scale(small, large, 4, 64)
    assert float(found.simple) == pytest.approx(6 / np.sum(mean**2), rel=0.05)


def test_parts_are_averaged_before_they_are_divided():
    small, large = torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0])
    found = two_batch_noise_scale(small, large, 1, 2)
    assert [float(part) for part in found] == pytest.approx([-1.0, 4.0, math.nan], nan_ok=True)
    parts = [noise_scale(gram(gradients(5, seed))) for seed in range(2)]
    sums = sum(float(part.covariance_trace) for part in parts), sum(float(p.squared_gradient) for p in parts)
    assert float(averaged_noise_scale(parts).simple) == pytest.approx(sums[0] / sums[1], rel=1e-12)


def test_subsets_are_means_of_different_examples():
    k = gram(gradients(5))
    generator = torch.Generator().manual_seed(0)
    whole = subset_squares(k, 5, 3, generator)
    assert whole.tolist() == pytest.approx([float(k.mean())] * 3, rel=1e-12)
    single = set(np.round(subset_squares(k, 1, 200, generator).tolist(), 9))
    assert single == set(np.round(k.diagonal().tolist(), 9))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="1 <= small < large, got 4 and 4"):
        two_batch_noise_scale(torch.ones(2), torch.ones(2), 4, 4)
    with pytest.raises(ValueError, match=r"two vectors \[R\]"):
        two_batch_noise_scale(torch.ones(2), torch.ones(3), 1, 4)
    with pytest.raises(ValueError, match="got none"):
        averaged_noise_scale([])
    with pytest.raises(ValueError, match=r"draws 1 \.\. 5 of 5 examples"):
        subset_squares(torch.eye(5), 6, 1, torch.Generator())
