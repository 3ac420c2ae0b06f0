"""What breaks the theorem (biases, ReLU between the layers), and what cannot see it, on dense matrices."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import gradscope as gs
from gradscope.theory import (
    biased_higher_shortcut_spectrum,
    biased_two_shortcut_spectrum,
    branch_correlation_matrix,
    cross_entropy_gradients,
    one_shortcut_block_norms,
    rectified_branch_spectrum,
    residual_correlation_matrix,
    symmetric_rectified_branch_spectrum,
    two_shortcut_block_norms,
    two_shortcut_spectrum,
    vanishing_spectrum,
)
from tests.theory.at_zero import SHAPES, dense, inputs, problem, shortcut_net, spectrum, targets


@pytest.mark.parametrize(("d", "h", "blocks"), [(3, 2, 1), (4, 3, 3), (2, 2, 9)])
def test_biases_make_it_singular_and_depth_dependent(d, h, blocks):
    x = inputs(d)
    y = targets(x)
    predicted = biased_two_shortcut_spectrum(
        residual_correlation_matrix(x, y), (x - y).mean(axis=0), blocks, h
    )
    found = spectrum(shortcut_net(d, h, blocks, bias=True), x, y)
    assert found.shape == predicted.shape
    np.testing.assert_allclose(found, predicted, rtol=0, atol=1e-13 * predicted[-1])
    assert found[-1] >= blocks * (1 - 1e-12)
    assert (predicted == 0).sum() == h * blocks + (blocks - 1) * d


@pytest.mark.parametrize(("n", "d", "h", "blocks"), [(3, 3, 2, 1), (3, 2, 3, 3), (4, 3, 2, 2)])
def test_with_biases_deeper_shortcuts_are_not_flat(n, d, h, blocks):
    x = inputs(d)
    y = targets(x)
    predicted = biased_higher_shortcut_spectrum((x - y).mean(axis=0), blocks, n, h)
    found = spectrum(shortcut_net(d, h, blocks, n=n, bias=True), x, y)
    assert found.shape == predicted.shape
    np.testing.assert_allclose(found, predicted, rtol=0, atol=1e-13 * predicted[-1])


def test_biases_under_cross_entropy_have_its_own_curvature():
    d, h, blocks = 3, 2, 4
    x = inputs(d)
    labels = np.random.default_rng(0).integers(0, d, len(x))
    g = cross_entropy_gradients(x, labels)
    p = g + np.eye(d)[labels]
    curvature = np.diag(p.mean(axis=0)) - p.T @ p / len(x)
    G = branch_correlation_matrix(g, x)
    predicted = biased_two_shortcut_spectrum(G, g.mean(axis=0), blocks, h, curvature)
    found = spectrum(shortcut_net(d, h, blocks, bias=True), x, labels, "cross_entropy")
    np.testing.assert_allclose(found, predicted, rtol=0, atol=1e-13 * predicted[-1])


def test_without_the_biases_behind_the_branch_the_spectrum_no_longer_grows_with_depth():
    x = inputs(3)
    y = targets(x)
    kept = ["blocks.*.branch.0.*", "blocks.*.branch.1.weight"]
    bottom, top = None, None
    for blocks in (1, 6):
        H, _ = dense(shortcut_net(3, 2, blocks, bias=True), x, y, parameters=kept)
        values = np.linalg.eigvalsh(H)
        assert bottom is None or (values[0], values[-1]) == pytest.approx((bottom, top), rel=1e-12)
        bottom, top = values[0], values[-1]


@pytest.mark.parametrize(("d", "h", "blocks"), [(3, 5, 2), (4, 3, 3), (5, 6, 1)])
def test_relu_between_the_layers_has_a_limit_for_each_hidden_unit(d, h, blocks):
    x = inputs(d)
    y = targets(x)
    worst = []
    for scale in (1e-3, 1e-6):
        net = shortcut_net(d, h, blocks, mid_activation="relu", scheme="small", scale=scale, seed=5)
        weights = np.stack([block.branch[0].weight.detach().numpy() for block in net.blocks])
        predicted = rectified_branch_spectrum(x - y, x, weights)
        found = spectrum(net, x, y)
        assert found.shape == predicted.shape
        worst.append(np.abs(found - predicted).max() / predicted[-1])
    assert worst[1] < 1e-10
    assert 1e-8 < worst[0] < 1e-4


def test_relu_before_and_between():
    x = inputs(3)
    y = targets(x)
    options = {"pre_activation": "relu", "mid_activation": "relu"}
    net = shortcut_net(3, 4, 2, scheme="small", scale=1e-6, seed=1, **options)
    weights = np.stack([block.branch[1].weight.detach().numpy() for block in net.blocks])
    predicted = rectified_branch_spectrum(x - y, np.maximum(x, 0), weights)
    np.testing.assert_allclose(spectrum(net, x, y), predicted, rtol=0, atol=1e-10 * predicted[-1])


@pytest.mark.parametrize("seed", [1, 2])
def test_symmetric_data_give_every_hidden_unit_one_half(seed):
    x = inputs(4)
    x = np.concatenate([x, -x])
    y = x @ np.random.default_rng(3).standard_normal((4, 4))
    net = shortcut_net(4, 3, 2, mid_activation="relu", scheme="small", scale=1e-7, seed=seed)
    predicted = symmetric_rectified_branch_spectrum(residual_correlation_matrix(x, y), 2, 3)
    np.testing.assert_allclose(spectrum(net, x, y), predicted, rtol=0, atol=1e-10 * predicted[-1])


def test_at_exactly_zero_automatic_differentiation_sees_no_curvature_behind_a_relu():
    x = inputs(3)
    y = targets(x)
    H, slope = dense(shortcut_net(3, 2, 2, mid_activation="relu"), x, y)
    assert slope == 0
    assert not H.any()
    assert np.array_equal(np.linalg.eigvalsh(H), vanishing_spectrum(3, 2, inner_width=2))


@pytest.mark.parametrize(("d", "h", "blocks"), SHAPES[:3])
@pytest.mark.parametrize("n", [2, 3])
def test_gauss_newton_and_fisher_matrices_are_exactly_zero(n, d, h, blocks):
    x = inputs(d)
    y = targets(x)
    asked = problem(shortcut_net(d, h, blocks, n=n), x, y)
    parameters = list(asked.parameters.values())
    batch = asked.first_batch()
    for value in [*asked.outputs(batch[0]).flatten(), *asked.losses(*batch)]:
        slopes = torch.autograd.grad(value, parameters, retain_graph=True)
        assert not any(slope.any() for slope in slopes)
    predicted = vanishing_spectrum(d, blocks, n, h)
    for make in (gs.gauss_newton, gs.empirical_fisher):
        with make(asked, check="none") as operator:
            assert np.array_equal(np.linalg.eigvalsh(operator.dense().numpy()), predicted)


@pytest.mark.parametrize(("d", "h", "blocks"), SHAPES)
def test_single_layers_see_nothing_and_pairs_see_everything(d, h, blocks):
    x = inputs(d)
    y = targets(x)
    H, _ = dense(shortcut_net(d, h, blocks), x, y)
    G = residual_correlation_matrix(x, y)
    norms = layer_norms(H, [d * h] * 2 * blocks)
    assert not norms.diagonal().any()
    np.testing.assert_allclose(norms, two_shortcut_block_norms(G, blocks), atol=1e-13 * norms.max())
    pair = H[: 2 * d * h, : 2 * d * h]
    expected = two_shortcut_spectrum(G, 1, h)
    np.testing.assert_allclose(np.linalg.eigvalsh(pair), expected, atol=1e-13 * norms.max())


@pytest.mark.parametrize(("d", "layers"), [(2, 1), (3, 2), (3, 4)])
def test_blocks_of_the_one_shortcut_hessian(d, layers):
    x = inputs(d)
    y = targets(x)
    H, _ = dense(shortcut_net(d, d, layers, n=1), x, y)
    predicted = one_shortcut_block_norms(x.T @ x / len(x), y.T @ x / len(x), layers)
    np.testing.assert_allclose(layer_norms(H, [d * d] * layers), predicted, rtol=1e-12)


def layer_norms(H, sizes):
    ends = np.cumsum([0, *sizes])
    places = [slice(a, b) for a, b in pairwise(ends)]
    return np.array([[np.linalg.norm(H[a, b], 2) for b in places] for a in places])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: biased_two_shortcut_spectrum(np.eye(2), [1, 2, 3], 1, 1), "mean_gradient must have shape"),
        (
            lambda: biased_two_shortcut_spectrum(np.eye(2), [1, 2], 1, 1, [[1, 2], [0, 1]]),
            "must be symmetric",
        ),
        (lambda: biased_higher_shortcut_spectrum([1, 2], 1, 2, 1), "whole number of at least 3"),
        (lambda: rectified_branch_spectrum(np.ones((3, 2)), np.ones((3, 2)), np.ones((2, 2))), "Stack W"),
        (lambda: rectified_branch_spectrum(*np.ones((2, 3, 2)), np.zeros((1, 2, 2))), "without a direction"),
        (lambda: vanishing_spectrum(2, 1, 1), "layers_per_block is a whole number of at least 2"),
        (lambda: two_shortcut_block_norms(np.eye(2), 0), "blocks is a whole number"),
        (lambda: one_shortcut_block_norms(np.eye(2), np.eye(2), 0), "layers is a whole number"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
