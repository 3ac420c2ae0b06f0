"""The line along which a 1-shortcut net's largest eigenvalue grows, against dense Hessians of finite depth."""

import numpy as np
import pytest

from gradscope.theory import (
    isotropic_one_shortcut_spectrum,
    one_shortcut_hessian,
    one_shortcut_largest_eigenvalue,
)
from tests.theory.at_zero import inputs, targets


@pytest.mark.parametrize(("d", "seed"), [(2, 0), (3, 1), (4, 2)])
def test_distance_from_the_line_halves_when_depth_doubles(d, seed):
    x = inputs(d, seed=seed)
    xx, yx = x.T @ x / len(x), targets(x, seed=seed + 10).T @ x / len(x)
    tops = np.array([np.linalg.eigvalsh(one_shortcut_hessian(xx, yx, layers))[-1] for layers in (12, 24)])
    line = one_shortcut_largest_eigenvalue(xx, yx, [12, 24])
    near, far = line - tops
    assert abs(far) < 5e-4 * tops[1]
    assert far / near == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("s", "c"), [(1.0, 0.4), (1.5, 1.5), (2.0, -3.0)])
def test_isotropic_data_are_on_the_line_at_every_depth(s, c):
    layers = np.array([[1, 2], [5, 11]])
    line = one_shortcut_largest_eigenvalue(s * np.eye(3), c * np.eye(3), layers)
    tops = [isotropic_one_shortcut_spectrum(s, c, 3, count)[-1] for count in layers.ravel().tolist()]
    np.testing.assert_allclose(line.ravel(), tops, rtol=1e-12)


def test_turning_is_what_lowers_the_slope():
    """A skew G = [[0, w], [-w, 0]] with S = I: theta cot(theta) matters, and slopes are not those of a matrix."""
    w = 3.0
    yx = np.eye(2) - np.array([[0, w], [-w, 0]])
    tops = [np.linalg.eigvalsh(one_shortcut_hessian(np.eye(2), yx, layers))[-1] for layers in (40, 41)]
    line = one_shortcut_largest_eigenvalue(np.eye(2), yx, [40, 41])
    assert tops[1] - tops[0] == pytest.approx(line[1] - line[0], rel=1e-3)
    assert line[1] - line[0] > 1.05


def test_arguments_outside_their_range_are_named():
    with pytest.raises(ValueError, match="depth counts layers"):
        one_shortcut_largest_eigenvalue(np.eye(2), np.eye(2), 0)
    with pytest.raises(ValueError, match="No eigenvalue grows"):
        one_shortcut_largest_eigenvalue(np.zeros((2, 2)), np.zeros((2, 2)), 4)
