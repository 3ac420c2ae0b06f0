"""Minimisers near zero: they fit the map exactly, and shrink with depth as the law says."""

import numpy as np
import pytest
import torch

from gradscope.theory import minimiser_near_zero, minimiser_norm, minimiser_norm_limit
from tests.theory.at_zero import inputs, problem, shortcut_net

R = np.array([[1.5, 0.4, 0.0], [-0.6, 0.8, 0.3], [0.2, 0.0, 1.1]])


@pytest.mark.parametrize(("n", "blocks"), [(1, 1), (1, 5), (2, 3), (3, 4)])
def test_the_net_of_these_weights_is_the_map(n, blocks):
    net = shortcut_net(3, 3, blocks, n=n)
    factors = minimiser_near_zero(R, blocks, n)
    with torch.no_grad():
        for block in net.blocks:
            for layer, weight in zip(block.branch, factors, strict=True):
                layer.weight.copy_(torch.from_numpy(weight))
    x = inputs(3)
    asked = problem(net, x, x @ R.T)
    loss = asked.value(*asked.first_batch())
    assert float(loss.detach()) < 1e-28
    assert max(float(g.abs().max()) for g in torch.autograd.grad(loss, list(net.parameters()))) < 1e-13
    norms = [np.linalg.norm(weight, 2) for weight in factors]
    np.testing.assert_allclose(norms, minimiser_norm(R, blocks, n), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_weights_shrink_as_the_nth_root_of_depth(n):
    blocks = np.array([64, 256, 1024])
    settled = minimiser_norm(R, blocks, n) * blocks ** (1 / n)
    limit = minimiser_norm_limit(R, n)
    errors = np.abs(settled / limit - 1)
    np.testing.assert_allclose(errors[1:] / errors[:-1], 0.25, rtol=0.05)
    assert errors[1] < 0.005 / n
    assert minimiser_norm(R, blocks.reshape(1, 3), n).shape == (1, 3)


def test_the_identity_is_fitted_at_zero():
    assert not any(weight.any() for weight in minimiser_near_zero(np.eye(2), 4, 2))
    assert minimiser_norm_limit(np.eye(2), 2) == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.diag([1.0, -1.0]), "det R > 0, got a determinant that is negative"),
        (np.diag([1.0, 0.0]), "a determinant that is zero"),
        (np.diag([-2.0, -1.0]), "real eigenvalue -2 <= 0 and hence no principal root"),
        (np.ones((2, 3)), "square matrix"),
    ],
)
def test_maps_that_no_such_net_can_reach_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        minimiser_near_zero(target, 4, 2)
    with pytest.raises(ValueError, match=message):
        minimiser_norm(target, [4], 2)
