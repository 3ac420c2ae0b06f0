"""The derivative process against finite differences of its kernel, printed values and simulated networks."""

import math

import numpy as np
import pytest

from gradscope.theory import expected_autocorrelation, plain_derivative_process, residual_derivative_process

GRID = np.linspace(-2, 2, 256)
LAGS = [1, 5]


def rng(seed=0):
    return np.random.default_rng(seed)


def simulated_autocorrelation(points, depth, beta, normalisation, width=200, draws=10):
    """Ratio of sums over draws; h and its derivative in x go forward together, statistics frozen.

    Each draw's trace is divided by the derivative's size before the readout, so that no net dominates.
    """
    generator, sums = rng(5), np.zeros(3)
    for _ in range(draws):
        w = generator.standard_normal((width, 1))
        h, slope = w * points, np.repeat(w, len(points), axis=1)
        for _ in range(depth):
            u, du = h, slope
            if beta is not None:
                V = generator.standard_normal((width, width)) / math.sqrt(width)
                u, du = V @ h, V @ slope
            u = u - u.mean(axis=1, keepdims=True)
            if normalisation == "batch":
                deviation = u.std(axis=1, keepdims=True)
                u, du = u / deviation, du / deviation
            W = generator.standard_normal((width, width)) * math.sqrt(2 / width)
            added, slope_added = W @ np.maximum(u, 0), W @ ((u > 0) * du)
            h = added if beta is None else h + beta * added
            slope = slope_added if beta is None else slope + beta * slope_added
        z = slope - slope.mean(axis=1, keepdims=True)
        z = z / np.linalg.norm(slope)
        sums += [(z[:, : len(points) - k] * z[:, k:]).sum() for k in (0, *LAGS)]
    return sums[1:] / sums[0]


# (mean of per-draw autocorrelations, 20 draws of width 200) at lags 1 and 5
PLAIN = {2: (0.974, 0.872), 4: (0.949, 0.760), 10: (0.751, 0.224), 24: (0.015, 0.030), 50: (0.028, 0.011)}
RESIDUAL = {4: (0.952, 0.776), 10: (0.883, 0.558)}


@pytest.mark.parametrize("depth", PLAIN)
def test_mean_centred_plain_autocorrelation_is_the_printed_one(depth):
    found = expected_autocorrelation(plain_derivative_process(GRID, depth).derivative, LAGS)
    np.testing.assert_allclose(found, PLAIN[depth], atol=0.1)


@pytest.mark.parametrize("depth", RESIDUAL)
def test_batch_norm_residual_autocorrelation_is_the_printed_one(depth):
    process = residual_derivative_process(GRID, depth, 1.0, samples=2048, generator=rng())
    np.testing.assert_allclose(expected_autocorrelation(process.derivative, LAGS), RESIDUAL[depth], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "beta", "printed"),
    [(24, 1.0, (0.801, 0.314)), (50, 1.0, (0.721, 0.195)), (24, 0.1, (0.930, 0.694))],
)
def test_deep_batch_norm_residual_autocorrelation_is_the_printed_one(depth, beta, printed):
    process = residual_derivative_process(GRID, depth, beta, samples=2048, generator=rng())
    np.testing.assert_allclose(expected_autocorrelation(process.derivative, LAGS), printed, atol=0.1)


@pytest.mark.parametrize(("points", "printed"), [(64, 0.318), (128, 0.574), (256, 0.759), (512, 0.872)])
def test_autocorrelation_depends_on_the_spacing_as_printed(points, printed):
    process = plain_derivative_process(np.linspace(-2, 2, points), 10)
    assert expected_autocorrelation(process.derivative, 1) == pytest.approx(printed, abs=6e-4)


def test_biases_alone_leave_neighbouring_gradients_alike():
    process = plain_derivative_process(GRID, 50, normalisation="none", bias_variance=1.0)
    assert expected_autocorrelation(process.derivative, 1) == pytest.approx(0.875, abs=0.1)


@pytest.mark.parametrize(
    ("depth", "beta", "normalisation"),
    [(4, None, "mean"), (10, None, "mean"), (4, 1.0, "mean"), (4, None, "batch"), (10, 0.1, "batch")],
)
def test_process_agrees_with_networks(depth, beta, normalisation):
    points, options = GRID[::2], {"normalisation": normalisation, "samples": 2048, "generator": rng()}
    if beta is None:
        process = plain_derivative_process(points, depth, **options)
    else:
        process = residual_derivative_process(points, depth, beta, **options)
    simulated = simulated_autocorrelation(points, depth, beta, normalisation)
    np.testing.assert_allclose(expected_autocorrelation(process.derivative, LAGS), simulated, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "beta", "normalisation"),
    [(24, None, "mean"), (24, 1.0, "batch"), (50, 0.1, "batch")],
)
def test_process_agrees_with_twenty_draws_of_deep_networks(depth, beta, normalisation):
    options = {"normalisation": normalisation, "samples": 2048, "generator": rng()}
    if beta is None:
        process = plain_derivative_process(GRID, depth, **options)
    else:
        process = residual_derivative_process(GRID, depth, beta, **options)
    simulated = simulated_autocorrelation(GRID, depth, beta, normalisation, draws=20)
    np.testing.assert_allclose(expected_autocorrelation(process.derivative, LAGS), simulated, atol=0.1)


@pytest.mark.parametrize("beta", [None, 0.7])
def test_derivative_covariances_are_derivatives_of_the_kernel(beta):
    """By central differences in both inputs, at points far enough apart for K to be smooth there."""
    x, step = np.array([-1.7, -0.9, 0.4, 1.3]), 1e-4
    grid = np.concatenate([x, x + step, x - step])

    def follow(points):
        if beta is None:
            return plain_derivative_process(points, 5, normalisation="none", bias_variance=0.5)
        return residual_derivative_process(points, 5, beta, normalisation="none")

    K = follow(grid).value.reshape(3, 4, 3, 4).transpose(0, 2, 1, 3)
    process = follow(x)
    apart = ~np.eye(4, dtype=bool)
    mixed = (K[0, 1] - K[0, 2]) / (2 * step)
    both = (K[1, 1] - K[1, 2] - K[2, 1] + K[2, 2]) / (4 * step**2)
    np.testing.assert_allclose(process.mixed[apart], mixed[apart], atol=1e-6)
    np.testing.assert_allclose(process.derivative[apart], both[apart], atol=1e-5)


@pytest.mark.parametrize("depth", [1, 10])
def test_zero_bias_net_has_two_gradient_values(depth):
    D = plain_derivative_process(GRID, depth, normalisation="none").derivative
    np.testing.assert_allclose(D[:128, :128], D[0, 0], rtol=1e-6)
    np.testing.assert_allclose(D[128:, 128:], D[-1, -1], rtol=1e-6)
    np.testing.assert_allclose(D[:128, 128:], D[0, -1], atol=1e-6)


def test_closed_branch_leaves_the_stream():
    process = residual_derivative_process(GRID, 3, 0.0, normalisation="mean")
    np.testing.assert_array_equal(process.value, np.outer(GRID, GRID))
    np.testing.assert_array_equal(process.derivative, np.ones((256, 256)))


def test_sampling_repeats_with_its_seed_and_needs_one():
    first, second = (
        plain_derivative_process(GRID, 2, normalisation="batch", generator=rng(4)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.derivative, second.derivative)
    with pytest.raises(ValueError, match="pass generator"):
        residual_derivative_process(GRID, 2)


def test_autocorrelation_of_white_and_brown_traces():
    white = expected_autocorrelation(np.eye(100), np.arange(100))
    np.testing.assert_allclose(white[0], 1)
    np.testing.assert_allclose(white[1:], -(100 - np.arange(1, 100)) / 100 / 99, rtol=1e-10)
    steps = np.arange(1, 257)
    D = np.minimum.outer(steps, steps).astype(float)
    traces = np.cumsum(rng().standard_normal((20_000, 256)), axis=1)
    z = traces - traces.mean(axis=1, keepdims=True)
    expected = [(z[:, :-k] * z[:, k:]).sum() / np.square(z).sum() for k in (1, 5, 15)]
    np.testing.assert_allclose(expected_autocorrelation(D, [1, 5, 15]), expected, atol=0.01)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plain_derivative_process([-1, 0, 1], 2), ValueError, "pre-activation is 0 at x = 0"),
        (lambda: plain_derivative_process([1.0], 2), ValueError, "at least two finite numbers"),
        (lambda: plain_derivative_process(GRID, 0), ValueError, "depth is a whole number"),
        (lambda: plain_derivative_process(GRID, 2, normalisation="layer"), ValueError, "'layer'"),
        (
            lambda: plain_derivative_process([-1, 1, 3, 1], 1),
            FloatingPointError,
            "no variance at grid point 1",
        ),
        (lambda: residual_derivative_process(GRID, 2, -1.0), ValueError, "beta must be at least 0"),
        (
            lambda: residual_derivative_process(GRID, 2, samples=1, generator=rng()),
            ValueError,
            "samples is a",
        ),
        (lambda: expected_autocorrelation(np.eye(5), 5), ValueError, r"whole numbers in 0\.\.4"),
        (lambda: expected_autocorrelation(np.eye(5)[:3], 1), ValueError, "square matrix"),
        (lambda: expected_autocorrelation(np.ones((5, 5)), 1), FloatingPointError, "constant over the grid"),
    ],
)
def test_arguments_outside_their_range_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
