"""The closed forms of n-shortcut linear nets against the Hessian itself, formed entry by entry."""

import itertools
import math

import numpy as np
import pytest
import torch

from gradscope.theory import (
    higher_shortcut_spectrum,
    isotropic_one_shortcut_spectrum,
    one_shortcut_hessian,
    residual_correlation_matrix,
    two_shortcut_condition_number,
    two_shortcut_spectrum,
)

SHAPES = [(3, 2, 1), (3, 5, 2), (4, 3, 3), (5, 6, 1), (4, 2, 5), (2, 2, 4)]


def data(width, examples=20, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((examples, width))
    return x, x @ rng.standard_normal((width, width)) + 0.3 * rng.standard_normal((examples, width))


def dense_hessian(x, y, shapes, blocks):
    """Of (1/2m) sum |y - f(x)|^2 at zero weights, by twofold autograd; `shapes` are one block's matrices."""
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    sizes = [rows * columns for _ in range(blocks) for rows, columns in shapes]

    def loss(weights):
        parts = iter(weights.split(sizes))
        state = x
        for _ in range(blocks):
            branch = state
            for rows, columns in shapes:
                branch = branch @ next(parts).reshape(rows, columns).T
            state = state + branch
        return (y - state).square().sum() / (2 * len(x))

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(loss, zero)
    return gradient.numpy(), torch.autograd.functional.hessian(loss, zero).numpy()


@pytest.mark.parametrize(("dim", "inner", "blocks"), SHAPES)
def test_two_shortcut_spectrum_is_that_of_the_dense_hessian(dim, inner, blocks):
    x, y = data(dim)
    gradient, H = dense_hessian(x, y, [(inner, dim), (dim, inner)], blocks)
    G = residual_correlation_matrix(x, y)
    top = np.linalg.norm(G, 2)
    predicted = two_shortcut_spectrum(G, blocks, inner)
    assert predicted.shape == (2 * dim * inner * blocks,)
    assert np.abs(gradient).max() == 0
    np.testing.assert_allclose(np.linalg.eigvalsh(H), predicted, rtol=0, atol=1e-13 * top)
    size = np.abs(np.linalg.eigvalsh(H))
    assert two_shortcut_condition_number(G) == pytest.approx(size.max() / size.min(), rel=1e-10)


def test_condition_number_is_the_root_of_that_of_the_squared_matrix():
    G = residual_correlation_matrix(*data(4))
    assert two_shortcut_condition_number(G) == pytest.approx(math.sqrt(np.linalg.cond(G.T @ G)), rel=1e-9)


@pytest.mark.parametrize(("dim", "layers"), [(2, 1), (2, 4), (3, 2), (3, 3), (4, 2)])
def test_one_shortcut_hessian_is_the_dense_one(dim, layers):
    x, y = data(dim)
    gradient, H = dense_hessian(x, y, [(dim, dim)], layers)
    G = residual_correlation_matrix(x, y)
    predicted = one_shortcut_hessian(x.T @ x / len(x), y.T @ x / len(x), layers)
    np.testing.assert_allclose(predicted, H, rtol=0, atol=1e-13 * np.abs(H).max())
    np.testing.assert_allclose(gradient.reshape(layers, dim, dim), np.stack([G] * layers), atol=1e-13)


@pytest.mark.parametrize(("dim", "layers"), [(1, 3), (2, 4), (3, 1), (4, 3)])
@pytest.mark.parametrize(("s", "c"), [(1.0, 0.4), (2.0, 3.5), (1.5, 1.5)])
def test_isotropic_spectrum_is_that_of_the_block_matrix(s, c, dim, layers):
    H = one_shortcut_hessian(s * np.eye(dim), c * np.eye(dim), layers)
    found = isotropic_one_shortcut_spectrum(s, c, dim, layers)
    np.testing.assert_allclose(np.linalg.eigvalsh(H), found, rtol=0, atol=1e-13 * np.abs(found).max())


def test_one_shortcut_conditioning_is_linear_in_depth_and_two_shortcut_has_none():
    size = [np.abs(isotropic_one_shortcut_spectrum(1.0, 0.5, 3, layers)) for layers in (20, 40, 80)]
    kappa = [values.max() / values.min() for values in size]
    assert kappa[2] - kappa[1] == pytest.approx(2 * (kappa[1] - kappa[0]), rel=1e-9)
    singular = np.abs(isotropic_one_shortcut_spectrum(1.0, 1.0, 3, 2))
    assert (singular > 1e-12).sum() == 9


@pytest.mark.parametrize(("dim", "inner", "n", "blocks"), [(2, 2, 3, 2), (3, 2, 3, 1), (2, 3, 4, 1)])
def test_higher_shortcuts_have_a_zero_hessian(dim, inner, n, blocks):
    x, y = data(dim)
    widths = [dim, *[inner] * (n - 1), dim]
    shapes = [(rows, columns) for columns, rows in itertools.pairwise(widths)]
    gradient, H = dense_hessian(x, y, shapes, blocks)
    assert np.abs(gradient).max() == 0
    assert np.abs(H).max() == 0
    predicted = higher_shortcut_spectrum(dim, blocks, n, inner)
    assert predicted.shape == (len(H),)
    assert not predicted.any()
    assert len(higher_shortcut_spectrum(5, 2, 3)) == 2 * 3 * 25


def test_fitted_direction_makes_the_condition_number_infinite():
    x, y = data(3)
    y[:, 0] = x[:, 0]
    assert two_shortcut_condition_number(residual_correlation_matrix(x, y)) == math.inf
    with pytest.raises(ValueError, match="G is zero"):
        two_shortcut_condition_number(residual_correlation_matrix(x, x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: residual_correlation_matrix(np.ones((5, 3)), np.ones((5, 2))), "same shape"),
        (lambda: residual_correlation_matrix(np.ones(5), np.ones(5)), "x must be a matrix"),
        (lambda: residual_correlation_matrix(np.full((5, 3), np.nan), np.ones((5, 3))), "NaN or infinity"),
        (lambda: two_shortcut_spectrum(np.ones((2, 3)), 1, 1), "square matrix"),
        (lambda: two_shortcut_spectrum(np.eye(2), 0, 1), "blocks is a whole number of at least 1"),
        (lambda: two_shortcut_spectrum(np.eye(2), 1, 0), "inner_width is a whole number of at least 1"),
        (lambda: one_shortcut_hessian(np.eye(2), np.eye(3), 2), r"sigma_yx must have shape \[2, 2\]"),
        (lambda: one_shortcut_hessian([[1, 2], [0, 1]], np.eye(2), 2), "must be symmetric"),
        (lambda: isotropic_one_shortcut_spectrum(0, 1, 2, 2), "s must be above 0"),
        (lambda: higher_shortcut_spectrum(2, 1, 2), "layers_per_block is a whole number of at least 3"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
