"""Every net and loss whose Hessian at zero weights is known, against the dense Hessian of that net."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from gradscope.theory import (
    branch_correlation_matrix,
    convolution_correlation_matrix,
    cross_entropy_gradients,
    post_rectified_correlation_matrices,
    post_rectified_spectrum,
    residual_correlation_matrix,
    two_shortcut_spectrum,
)
from tests.theory.at_zero import SHAPES, between, dense, inputs, shortcut_net, spectrum, targets

ROUNDING = 1e-13
"""Relative to the largest singular value, in float64."""


def half_squared_error(d, h, blocks):
    x = inputs(d)
    y = targets(x)
    return shortcut_net(d, h, blocks), x, y, "half_squared_error", residual_correlation_matrix(x, y)


def cross_entropy(d, h, blocks):
    x = inputs(d)
    labels = np.random.default_rng(3).integers(0, d, len(x))
    G = branch_correlation_matrix(cross_entropy_gradients(x, labels), x)
    return shortcut_net(d, h, blocks), x, labels, "cross_entropy", G


def another_loss(d, h, blocks):
    """sum of f^4 - y f: neither squared nor convex in y, differentiated by hand."""
    x = inputs(d)
    y = targets(x)

    def quartic(output, target):
        return (output**4 - target * output).sum(dim=1)

    return shortcut_net(d, h, blocks), x, y, quartic, branch_correlation_matrix(4 * x**3 - y, x)


def narrow_output(d, h, blocks):
    """Fixed maps from d + 2 to d to d - 1 numbers."""
    rng = np.random.default_rng(4)
    V, U = rng.standard_normal((d, d + 2)), rng.standard_normal((d - 1, d))
    x = inputs(d + 2)
    y = targets(x, d - 1)
    G = branch_correlation_matrix(x @ V.T @ U.T - y, x @ V.T, output_map=U)
    return between(shortcut_net(d, h, blocks), V, U), x, y, "half_squared_error", G


def rectified_before(d, h, blocks):
    """The nonlinear case of Li et al.: ReLU before, something smooth between."""
    x = inputs(d)
    y = targets(x)
    net = shortcut_net(d, h, blocks, pre_activation="relu", mid_activation="tanh")
    return net, x, y, "half_squared_error", branch_correlation_matrix(x - y, np.maximum(x, 0))


def slope_of_one_half(d, h, blocks):
    x = inputs(d)
    y = targets(x)
    net = shortcut_net(d, h, blocks, pre_activation="tanh", mid_activation="gelu")
    return net, x, y, "half_squared_error", branch_correlation_matrix(x - y, np.tanh(x), slope=0.5)


CASES = [
    half_squared_error,
    cross_entropy,
    another_loss,
    narrow_output,
    rectified_before,
    slope_of_one_half,
]


def coupling(H, rows, h):
    """G as it stands in the Hessian: between W2[i, 0] and W1[0, j] of the first block, W1 [h, rows] coming first.

    The spectrum tells G up to signs and rotations; this tells every entry.
    """
    first = rows * h
    return H[first : 2 * first, :first].reshape(rows, h, h, rows)[:, 0, 0, :]


@pytest.mark.parametrize(("d", "h", "blocks"), SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_two_shortcut_spectrum_of_every_case(case, d, h, blocks):
    net, x, y, loss, G = case(d, h, blocks)
    H, slope = dense(net, x, y, loss)
    top = np.linalg.norm(G, 2)
    predicted = two_shortcut_spectrum(G, blocks, h)
    assert slope == 0
    assert predicted.shape == (2 * d * h * blocks,)
    np.testing.assert_allclose(np.linalg.eigvalsh(H), predicted, rtol=0, atol=ROUNDING * top)
    np.testing.assert_allclose(coupling(H, d, h), G, rtol=0, atol=ROUNDING * top)
    if case is narrow_output:
        assert (np.abs(predicted) < ROUNDING * top).sum() == 2 * h * blocks


@pytest.mark.parametrize(("d", "h", "blocks"), SHAPES)
def test_relu_after_every_sum(d, h, blocks):
    x = inputs(d)
    y = targets(x)
    first, later = post_rectified_correlation_matrices(np.maximum(x, 0) - y, x)
    H, slope = dense(shortcut_net(d, h, blocks, post_activation="relu"), x, y)
    predicted = post_rectified_spectrum(first, later, blocks, h)
    assert slope == 0
    np.testing.assert_allclose(np.linalg.eigvalsh(H), predicted, rtol=0, atol=ROUNDING * predicted[-1])


@pytest.mark.parametrize(
    ("channels", "inner", "blocks", "kernel"), [(2, 2, 1, 3), (1, 3, 2, 3), (3, 2, 2, 1)]
)
def test_convolutions(channels, inner, blocks, kernel):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 6, channels, 4, 3))
    M = convolution_correlation_matrix(x - y, x, kernel)
    net = shortcut_net(channels, inner, blocks, kernel_size=kernel)
    predicted = two_shortcut_spectrum(M, blocks, inner)
    H, slope = dense(net, x, y)
    assert slope == 0
    assert len(H) == len(predicted)
    np.testing.assert_allclose(np.linalg.eigvalsh(H), predicted, rtol=0, atol=ROUNDING * predicted[-1])
    taps, size = kernel**2, channels * inner * kernel**2
    entries = H[size : 2 * size, :size].reshape(channels, inner, taps, inner, channels, taps)[:, 0, :, 0]
    np.testing.assert_allclose(entries.reshape(M.shape), M, rtol=0, atol=ROUNDING * predicted[-1])


def test_a_convolution_of_one_pixel_is_the_matrix_of_its_kernels_centre():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 7, 3))
    M = convolution_correlation_matrix(g[..., None, None], x[..., None, None], 3)
    centre = M.reshape(3, 9, 3, 9)[:, 4, :, 4]
    np.testing.assert_allclose(centre, branch_correlation_matrix(g, x), atol=1e-15)
    assert np.count_nonzero(M) == 9


def test_float32_agrees_to_its_own_rounding():
    net, x, y, loss, G = half_squared_error(4, 3, 3)
    found = np.linalg.eigvalsh(dense(net.float(), x.astype(np.float32), y.astype(np.float32), loss)[0])
    predicted = two_shortcut_spectrum(G, 3, 3)
    np.testing.assert_allclose(found, predicted, rtol=0, atol=1e-5 * predicted[-1])


def test_mean_of_two_outputs_scales_eigenvalues_and_leaves_ratios():
    """`nn.MSELoss` is 2/d times half the squared error."""
    net, x, y, _, G = half_squared_error(4, 3, 2)
    predicted = two_shortcut_spectrum(G, 2, 3) * 2 / 4
    found = spectrum(net, x, y, torch.nn.MSELoss())
    np.testing.assert_allclose(found, predicted, rtol=0, atol=ROUNDING * predicted[-1])


def test_cross_entropy_gradients_are_those_of_autograd():
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(30)
    labels = torch.tensor([0, 3, 1, 1, 2])
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(functional.cross_entropy(logits, labels, reduction="sum"), logits)
    found = cross_entropy_gradients(logits.detach().numpy(), labels.numpy())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: branch_correlation_matrix(np.ones((3, 2)), np.ones((4, 2))), "got 3 and 4 rows"),
        (lambda: branch_correlation_matrix(np.ones((3, 1)), np.ones((3, 2))), "Pass the output_map of shape"),
        (
            lambda: branch_correlation_matrix(np.ones((3, 2)), np.ones((3, 2)), slope=np.nan),
            "slope must be finite",
        ),
        (lambda: cross_entropy_gradients(np.ones((3, 2)), [0, 1, 2]), r"3 whole numbers in \[0, 2\)"),
        (lambda: cross_entropy_gradients(np.ones((3, 2)), [0.0, 1.0, 1.0]), "whole numbers"),
        (lambda: convolution_correlation_matrix(np.ones((2, 3)), np.ones((2, 3))), "images of one shape"),
        (lambda: convolution_correlation_matrix(*np.ones((2, 1, 1, 2, 2)), 2), "kernel_size is odd"),
        (lambda: convolution_correlation_matrix(*np.full((2, 1, 1, 2, 2), np.inf)), "NaN or infinity"),
        (
            lambda: post_rectified_correlation_matrices(np.ones((3, 2)), np.ones((3, 3))),
            "gradients must have shape",
        ),
        (lambda: post_rectified_spectrum(np.eye(2), np.ones((2, 3)), 2, 1), "later must be a square"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
