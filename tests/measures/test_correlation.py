"""Correlations between examples' gradients against double loops over pairs."""

import math

import numpy as np
import pytest
import torch

from gradscope.measures.correlation import correlation_R, correlation_R_interval, mean_cosine


def rows(n: int = 7, width: int = 5, shared: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return own * torch.rand(n, 1, generator=generator, dtype=torch.float64) * 3 + shared


def slow_mean_cosine(g: np.ndarray) -> float:
    pairs = [(i, j) for i in range(len(g)) for j in range(len(g)) if i != j]
    return float(np.mean([g[i] @ g[j] / (np.linalg.norm(g[i]) * np.linalg.norm(g[j])) for i, j in pairs]))


def slow_R(g: np.ndarray) -> float:
    products = [g[i] @ g[j] for i in range(len(g)) for j in range(len(g)) if i != j]
    return float(np.mean(products) / np.mean([row @ row for row in g]))


FUNCTIONS = [(mean_cosine, slow_mean_cosine), (correlation_R, slow_R)]


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize(("fast", "slow"), FUNCTIONS)
def test_both_are_the_double_loop(fast, slow, n):
    g = rows(n)
    assert float(fast(g)) == pytest.approx(slow(g.numpy()), abs=1e-13)


@pytest.mark.parametrize("function", [mean_cosine, correlation_R])
@pytest.mark.parametrize("scale", [1e-12, 1e-200, 1e200])
def test_scale_does_not_matter(function, scale):
    g = rows()
    assert float(function(g * scale)) == pytest.approx(float(function(g)), rel=1e-12)


@pytest.mark.parametrize("function", [mean_cosine, correlation_R])
def test_float32_gradients_whose_squares_underflow(function):
    """1e-30 squared is no float32, and an epsilon would call these gradients shattered."""
    g = rows().float()
    assert float(function(g * 1e-30)) == pytest.approx(float(function(g)), rel=1e-6)
    assert function(g * 1e-30).dtype is torch.float64


def test_the_mean_cosine_ignores_each_rows_own_scale():
    g = rows()
    scales = torch.logspace(-12, 12, 7, dtype=torch.float64)[:, None]
    assert float(mean_cosine(g * scales)) == pytest.approx(float(mean_cosine(g)), rel=1e-12)


@pytest.mark.parametrize("function", [mean_cosine, correlation_R])
def test_the_extremes(function):
    same = torch.ones(4, 3)
    assert float(function(same)) == pytest.approx(1, abs=1e-15)
    assert float(function(torch.eye(4))) == pytest.approx(0, abs=1e-15)
    simplex = torch.eye(4) - 1 / 4
    assert float(function(simplex)) == pytest.approx(-1 / 3, abs=1e-7)


@pytest.mark.parametrize("function", [mean_cosine, correlation_R])
def test_zero_gradients_have_no_direction(function):
    assert math.isnan(function(torch.zeros(3, 4)))


def test_one_zero_row_undefines_the_cosine_only():
    g = rows()
    g[2] = 0
    assert math.isnan(mean_cosine(g))
    assert float(correlation_R(g)) == pytest.approx(slow_R(g.numpy()), abs=1e-13)


@pytest.mark.parametrize("function", [mean_cosine, correlation_R, correlation_R_interval])
@pytest.mark.parametrize("shape", [(3,), (1, 4), (2, 3, 4)])
def test_what_is_no_matrix_of_examples_is_refused(function, shape):
    with pytest.raises(ValueError, match=r"compares examples: .* Flatten with .flatten\(start_dim=1\)"):
        function(torch.ones(shape))


@pytest.mark.parametrize("n", [3, 7, 20])
def test_the_interval_is_the_jackknife_of_n_recomputations(n):
    g = rows(n).numpy()
    without = np.array([slow_R(np.delete(g, i, axis=0)) for i in range(n)])
    error = math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    value, low, high = correlation_R_interval(torch.from_numpy(g))
    assert value == pytest.approx(slow_R(g), abs=1e-13)
    assert (low, high) == pytest.approx((value - 1.959964 * error, value + 1.959964 * error), abs=1e-12)


def test_no_interval_from_two_examples_or_from_nothing():
    value, low, high = correlation_R_interval(rows(2))
    assert math.isfinite(value) and math.isnan(low) and math.isnan(high)
    assert all(math.isnan(part) for part in correlation_R_interval(torch.zeros(4, 3)))
    only_one = torch.zeros(4, 3)
    only_one[0] = 1
    assert math.isnan(correlation_R_interval(only_one).low)


def test_the_interval_covers():
    """Gaussian gradients with a shared part: 95 % of the intervals hold R = c^2 / (1 + c^2), give or take."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(300):
        shared = torch.randn(1, 400, generator=generator)
        g = torch.randn(40, 400, generator=generator) + 0.5 * shared
        truth = 0.25 * float(shared.square().mean()) / (1 + 0.25 * float(shared.square().mean()))
        _, low, high = correlation_R_interval(g)
        covered += low <= truth <= high
    assert 0.88 <= covered / 300 <= 0.99
