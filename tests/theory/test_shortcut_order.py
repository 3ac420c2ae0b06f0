"""How far loss, gradient and Hessian of n-shortcut nets are from their leading orders in the weights' scale."""

import numpy as np
import pytest
import torch

from gradscope.theory import (
    higher_shortcut_spectrum,
    residual_correlation_matrix,
    small_weight_gradient,
    small_weight_loss_change,
    small_weight_spectrum,
    two_shortcut_spectrum,
)
from tests.theory.at_zero import dense, inputs, problem, shortcut_net, spectrum, targets

CASES = [(1, 3, 3, 2), (2, 3, 2, 2), (3, 3, 2, 2), (3, 2, 4, 1), (4, 2, 3, 1)]
"""Layers a block n, width d, inner width h, blocks L."""


def small(n, d, h, blocks, scale):
    """The net, its weights by block, and its problem."""
    x = inputs(d)
    y = targets(x)
    net = shortcut_net(d, h, blocks, n=n, scheme="small", scale=scale, seed=2)
    branches = [[layer.weight.detach().numpy() for layer in block.branch] for block in net.blocks]
    return net, branches, x, y, residual_correlation_matrix(x, y)


def value(net, x, y):
    with torch.no_grad():
        asked = problem(net, x, y)
        return float(asked.value(*asked.first_batch()))


@pytest.mark.parametrize(("n", "d", "h", "blocks"), CASES)
def test_loss_moves_at_order_n_and_as_predicted(n, d, h, blocks):
    at_zero = None
    errors, changes = [], []
    for scale in (0.1, 0.05):
        net, branches, x, y, G = small(n, d, h, blocks, scale)
        at_zero = value(shortcut_net(d, h, blocks, n=n), x, y)
        changes.append(small_weight_loss_change(G, branches))
        errors.append(abs(value(net, x, y) - at_zero - changes[-1]))
    assert changes[0] / changes[1] == pytest.approx(2**n, rel=1e-9)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2 * n, abs=0.5)


@pytest.mark.parametrize(("n", "d", "h", "blocks"), CASES)
def test_gradient_is_of_order_n_minus_one_and_as_predicted(n, d, h, blocks):
    errors, sizes = [], []
    for scale in (0.1, 0.05):
        net, branches, x, y, G = small(n, d, h, blocks, scale)
        asked = problem(net, x, y)
        found = torch.autograd.grad(asked.value(*asked.first_batch()), list(asked.parameters.values()))
        predicted = [slope for branch in small_weight_gradient(G, branches) for slope in branch]
        difference = [a.numpy() - b for a, b in zip(found, predicted, strict=True)]
        errors.append(max(np.abs(part).max() for part in difference))
        sizes.append(max(np.abs(part).max() for part in predicted))
    assert sizes[0] / sizes[1] == pytest.approx(2 ** (n - 1), rel=1e-9)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2 * n - 1, abs=0.6)


@pytest.mark.parametrize(("n", "d", "h", "blocks"), CASES[1:])
def test_spectrum_is_of_order_n_minus_two_and_as_predicted(n, d, h, blocks):
    errors, tops = [], []
    for scale in (0.1, 0.05):
        net, branches, x, y, G = small(n, d, h, blocks, scale)
        predicted = small_weight_spectrum(G, branches)
        errors.append(np.abs(spectrum(net, x, y) - predicted).max())
        tops.append(predicted[-1])
    assert tops[0] / tops[1] == pytest.approx(2 ** (n - 2), rel=1e-9)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2 * n - 2, abs=0.7)
    if n == 2:
        np.testing.assert_allclose(predicted, two_shortcut_spectrum(G, blocks, h), atol=1e-13)


@pytest.mark.parametrize(("n", "d", "h", "blocks"), CASES[2:])
def test_three_layers_and_more_are_exactly_flat_at_zero(n, d, h, blocks):
    x = inputs(d)
    H, slope = dense(shortcut_net(d, h, blocks, n=n), x, targets(x))
    assert slope == 0
    assert not H.any()
    assert len(higher_shortcut_spectrum(d, blocks, n, h)) == len(H)


def test_one_layer_shortcuts_are_a_plain_net_at_the_identity():
    x = inputs(3)
    y = targets(x)
    plain = shortcut_net(3, 3, 4, n=1)
    for block in plain.blocks:
        block.shortcut = None
        torch.nn.init.eye_(block.branch[0].weight)
    here, there = dense(shortcut_net(3, 3, 4, n=1), x, y)[0], dense(plain, x, y)[0]
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-15 * np.abs(here).max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small_weight_loss_change(np.eye(2), []), "branches is a list of blocks"),
        (lambda: small_weight_loss_change(np.eye(2), [[]]), "branches is a list of blocks"),
        (
            lambda: small_weight_gradient(np.eye(2), [[np.ones((3, 2)), np.ones((2, 2))]]),
            r"\[3, 2\], \[2, 2\]",
        ),
        (lambda: small_weight_gradient(np.eye(3), [[np.eye(2), np.eye(2)]]), "from 3 numbers to 3"),
        (lambda: small_weight_spectrum(np.eye(2), [[np.eye(2)]]), "two layers or more"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
