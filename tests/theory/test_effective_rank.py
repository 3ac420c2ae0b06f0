"""The stable rank of white gradients against drawn ones."""

import numpy as np
import pytest

from gradscope.theory import white_stable_rank, white_stable_rank_finite


def test_printed_value_and_simulation():
    assert white_stable_rank(3072, 256) == pytest.approx(154.2, abs=0.05)
    A = np.random.default_rng(0).standard_normal((3072, 256))
    gram = A.T @ A
    assert np.trace(gram) / np.linalg.eigvalsh(gram)[-1] == pytest.approx(154.2, rel=0.015)


@pytest.mark.parametrize(("d", "B"), [(10, 10), (30, 30), (12, 200), (200, 12), (60, 100)])
def test_finite_matrices_have_the_corrected_rank(d, B):
    A = np.random.default_rng(0).standard_normal((1000, d, B))
    top = np.linalg.svd(A[:400] if d * B > 2000 else A, compute_uv=False)
    drawn = np.mean(np.square(top).sum(axis=1) / np.square(top[:, 0]))
    assert white_stable_rank_finite(d, B) == pytest.approx(drawn, rel=0.025)
    assert abs(white_stable_rank(d, B) - drawn) > abs(white_stable_rank_finite(d, B) - drawn)


def test_limits_and_symmetry():
    assert white_stable_rank(10, 400) == white_stable_rank(400, 10)
    assert white_stable_rank(10**12, 16) == pytest.approx(16, rel=1e-4)
    assert white_stable_rank(100, 100) == pytest.approx(25)


@pytest.mark.parametrize(("d", "B", "name"), [(0, 5, "dimensions"), (5, 2.5, "examples")])
def test_sizes_outside_their_range_are_named(d, B, name):
    with pytest.raises(ValueError, match=f"{name} is a whole number of at least 1"):
        white_stable_rank(d, B)
