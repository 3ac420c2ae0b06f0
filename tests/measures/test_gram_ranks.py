"""Ranks, spectra, condition numbers and alignment against singular values of the gradients themselves."""

import math

import numpy as np
import pytest
import torch

from gradscope.measures.gram_alignment import (
    centred,
    centred_kernel_alignment,
    class_kernel,
    kernel_alignment,
)
from gradscope.measures.gram_ranks import (
    entropy_effective_rank,
    participation_ratio,
    relative_effective_rank,
    stable_rank,
)
from gradscope.measures.gram_spectrum import (
    kernel_condition,
    kernel_spectrum,
    kernel_trace,
)
from gradscope.measures.gram_white_noise import (
    chi_squares,
    simulated_white_stable_rank,
    white_stable_rank,
)


def gradients(n: int = 6, width: int = 9, shared: float = 0.5) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((n, width)) + shared


def gram(g: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(g @ g.T)


def slow_stable(g: np.ndarray) -> float:
    return float(np.sum(g**2) / np.linalg.norm(g, 2) ** 2)


def slow_entropy(g: np.ndarray) -> float:
    s = np.linalg.svd(g, compute_uv=False)
    p = s[s > 1e-7 * s[0]] / s.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def slow_participation(g: np.ndarray) -> float:
    s = np.linalg.svd(g, compute_uv=False) ** 2
    return float(s.sum() ** 2 / np.sum(s**2))


RANKS = {
    stable_rank: slow_stable,
    entropy_effective_rank: slow_entropy,
    participation_ratio: slow_participation,
}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", [(6, 9), (6, 3), (2, 1)])
def test_a_rank_is_that_of_the_singular_values(rank, shape):
    g = gradients(*shape)
    assert float(rank(gram(g))) == pytest.approx(RANKS[rank](g), rel=1e-7)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("scale", [1e-30, 1e-150, 1e150])
def test_the_scale_does_not_matter(rank, scale):
    assert float(rank(gram(gradients() * scale))) == pytest.approx(float(rank(gram(gradients()))), rel=1e-9)


@pytest.mark.parametrize("rank", RANKS)
def test_the_extremes_of_a_rank(rank):
    assert float(rank(torch.ones(5, 5))) == pytest.approx(1, abs=1e-9)
    assert float(rank(torch.eye(5))) == pytest.approx(5, abs=1e-9)
    assert math.isnan(rank(torch.zeros(5, 5)))
    assert math.isnan(rank(torch.full((5, 5), math.inf)))


def test_the_ranks_are_ordered():
    """Stable <= participation <= entropy: the last weighs small directions most."""
    k = gram(gradients())
    assert float(stable_rank(k)) <= float(participation_ratio(k)) <= float(entropy_effective_rank(k))


def test_the_closed_form_of_white_noise_and_the_sheets_numbers():
    assert white_stable_rank(256, 3072) == pytest.approx(154.2, abs=0.05)
    drawn = simulated_white_stable_rank(256, 3072, 4, torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(155.1, abs=0.6)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (5, 5)])
def test_the_simulated_rank_is_that_of_gaussian_matrices(shape):
    """Two samples of 400, one through the factor, one of whole matrices: means within five standard errors."""
    drawn = simulated_white_stable_rank(*shape, 400, torch.Generator().manual_seed(0)).numpy()
    draw = np.random.default_rng(0)
    slow = np.array([slow_stable(draw.standard_normal(shape)) for _ in range(400)])
    error = math.sqrt(drawn.var() / 400 + slow.var() / 400)
    assert abs(drawn.mean() - slow.mean()) < 5 * error
    assert drawn.std() == pytest.approx(slow.std(), rel=0.25)


@pytest.mark.parametrize("freedom", [1, 2, 3000])
def test_chi_squares_have_their_mean_variance_and_distribution(freedom):
    from scipy.stats import chi2, kstest

    drawn = chi_squares(
        torch.full((4000,), float(freedom), dtype=torch.float64), torch.Generator().manual_seed(1)
    )
    assert kstest(drawn.numpy(), chi2(freedom).cdf).pvalue > 1e-3


def test_the_relative_rank_of_white_noise_is_one():
    g = np.random.default_rng(0).standard_normal((64, 400))
    closed = relative_effective_rank(gram(g), white_stable_rank(64, 400))
    simulated = simulated_white_stable_rank(64, 400, 20, torch.Generator().manual_seed(0)).mean()
    assert float(closed) == pytest.approx(1, abs=0.1)
    assert float(relative_effective_rank(gram(g), simulated)) == pytest.approx(1, abs=0.05)
    assert float(relative_effective_rank(torch.ones(64, 64), simulated)) < 0.1


def test_the_spectrum_is_that_of_the_gradients():
    g = gradients()
    singular = np.linalg.svd(g, compute_uv=False)
    found = kernel_spectrum(gram(g))
    np.testing.assert_allclose(found, singular**2, rtol=1e-9)
    condition = kernel_condition(gram(g))
    assert float(condition.value) == pytest.approx((singular[0] / singular[-1]) ** 2, rel=1e-9)
    assert condition.unresolved == 0
    assert float(condition.smallest) == pytest.approx(singular[-1] ** 2, rel=1e-9)
    assert float(kernel_trace(gram(g))) == pytest.approx(np.sum(g**2), rel=1e-12)


def test_a_singular_kernel_has_unresolved_eigenvalues_and_a_lower_bound():
    """Rank three of six: three eigenvalues are rounding, and the condition number at least 1 / (2 B eps)."""
    condition = kernel_condition(gram(gradients(6, 3)))
    assert condition.unresolved == 3
    assert float(condition.value) == pytest.approx(1 / (12 * np.finfo(float).eps))
    assert float(condition.smallest) > 0
    nothing = kernel_condition(torch.zeros(4, 4))
    assert math.isnan(nothing.value) and nothing.unresolved == 4


def test_a_kernel_computed_in_float32_resolves_less():
    k = torch.diag(torch.tensor([1.0, 1e-3, 1e-9], dtype=torch.float64))
    assert kernel_condition(k).unresolved == 0
    assert float(kernel_condition(k).value) == pytest.approx(1e9)
    coarse = kernel_condition(k, torch.float32)
    assert coarse.unresolved == 1 and float(coarse.value) == pytest.approx(1 / (6 * np.finfo(np.float32).eps))


def test_alignment_is_the_cosine_of_two_matrices():
    one, two = gradients(), gradients(6, 4, shared=0.0)[::-1].copy()
    k, m = one @ one.T, two @ two.T
    expected = np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m)
    assert float(kernel_alignment(gram(one), gram(two))) == pytest.approx(expected, rel=1e-12)
    k, m = ((g - g.mean(axis=0)) @ (g - g.mean(axis=0)).T for g in (one, two))
    np.testing.assert_allclose(centred(gram(one)), k, atol=1e-12)
    expected = np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m)
    assert float(centred_kernel_alignment(gram(one), gram(two))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("alignment", [kernel_alignment, centred_kernel_alignment])
def test_the_extremes_of_alignment(alignment):
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    assert float(alignment(3e-40 * class_kernel(labels), class_kernel(labels))) == pytest.approx(1, abs=1e-9)
    one_class = alignment(torch.eye(6), class_kernel(torch.zeros(6)))
    assert math.isnan(one_class) == (alignment is centred_kernel_alignment)
    assert math.isnan(alignment(torch.zeros(6, 6), class_kernel(labels)))


def test_gradients_that_are_one_hot_labels_are_the_class_kernel():
    labels = torch.tensor([2, 0, 2, 1])
    one_hot = torch.nn.functional.one_hot(labels).double()
    torch.testing.assert_close(class_kernel(labels), one_hot @ one_hot.T)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="two kernels on the same examples"):
        kernel_alignment(torch.eye(3), torch.eye(4))
    with pytest.raises(ValueError, match="rank of white noise, got 0"):
        relative_effective_rank(torch.eye(3), 0)
    with pytest.raises(ValueError, match="at least one example, coordinate and draw"):
        simulated_white_stable_rank(3, 0, 1, torch.Generator())
    with pytest.raises(ValueError, match="class number for each example"):
        class_kernel(torch.zeros(2, 2))
