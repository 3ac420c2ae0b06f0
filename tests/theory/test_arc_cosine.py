"""The arc-cosine kernels against Gaussian samples and against each other."""

import numpy as np
import pytest

from gradscope.theory import coactivation, k0, k1


@pytest.mark.parametrize("r", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_kernels_are_the_moments_of_gaussian_pairs(r):
    rng = np.random.default_rng(3)
    u, w = rng.standard_normal((2, 1_000_000))
    v = r * u + np.sqrt(1 - r**2) * w
    active = (u > 0) & (v > 0)
    assert k0(r) == pytest.approx(2 * active.mean(), abs=6e-3)
    assert k1(r) == pytest.approx(2 * (np.maximum(u, 0) * np.maximum(v, 0)).mean(), abs=6e-3)
    assert coactivation(r) == pytest.approx(active.mean(), abs=3e-3)


def test_values_at_the_ends_and_the_middle():
    np.testing.assert_allclose(k0([-1, 0, 1]), [0, 0.5, 1], atol=1e-15)
    np.testing.assert_allclose(k1([-1, 0, 1]), [0, 1 / np.pi, 1], atol=1e-15)
    assert coactivation(0.0) == pytest.approx(0.25)


def test_derivative_of_k1_is_k0():
    r = np.linspace(-0.99, 0.99, 67)
    slope = (k1(r + 1e-6) - k1(r - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, k0(r), atol=1e-8)


def test_rounding_above_one_is_clipped_and_more_is_refused():
    assert k0(1 + 1e-12) == 1
    with pytest.raises(ValueError, match=r"correlations, in \[-1, 1\]"):
        k1([0.5, 1.1])
    with pytest.raises(ValueError, match="got nan"):
        k0(float("nan"))
