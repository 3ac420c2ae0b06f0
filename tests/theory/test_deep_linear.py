"""Deep linear nets against dense Gauss-Newton matrices and Hessians, and products of Gaussian matrices."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.theory import (
    deep_linear_gauss_newton_bound,
    deep_linear_gauss_newton_spectrum,
    gaussian_condition_growth,
    gaussian_gauss_newton_mean_trace,
    gaussian_log_singular_value_deviations,
    gaussian_lyapunov_exponents,
    orthogonal_gauss_newton_spectrum,
    orthogonal_hessian,
)
from tests.theory.at_zero import dense, inputs, problem, targets


def plain_net(widths, scheme="xavier", seed=0, **options):
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    return gs.nets.initialise(nn.Sequential(*layers).double(), scheme, seed=seed, **options)


def matrices(net):
    return [parameter.detach().numpy() for parameter in net.parameters()]


@pytest.mark.parametrize("widths", [(3, 3), (3, 3, 3), (4, 4, 4, 4), (3, 5, 4, 2), (3, 2, 3)])
@pytest.mark.parametrize("scheme", ["xavier", "orthogonal"])
def test_gauss_newton_spectrum_and_bound(widths, scheme):
    net = plain_net(widths, scheme)
    x = inputs(widths[0])
    S = x.T @ x / len(x)
    jacobian = torch.autograd.functional.jacobian(
        lambda *w: torch.func.functional_call(
            net, dict(zip(dict(net.named_parameters()), w, strict=True)), (torch.from_numpy(x),)
        ),
        tuple(net.parameters()),
    )
    J = np.concatenate([part.reshape(len(x) * widths[-1], -1).numpy() for part in jacobian], axis=1)
    expected = np.sort(np.linalg.eigvalsh(J.T @ J / len(x)))
    predicted = deep_linear_gauss_newton_spectrum(matrices(net), S)
    assert predicted.shape == (widths[0] * widths[-1],)
    np.testing.assert_allclose(
        expected[-len(predicted) :], predicted[-len(expected) :], rtol=0, atol=1e-13 * predicted[-1]
    )
    assert np.abs(expected[: -len(predicted)]).max(initial=0) < 1e-13 * predicted[-1]
    bound = deep_linear_gauss_newton_bound(matrices(net), S)
    if widths == (3, 2, 3):
        assert abs(predicted[0]) < 1e-13 * predicted[-1]
        assert bound == math.inf
    else:
        assert bound >= predicted[-1] / predicted[0] * (1 - 1e-12)
    if scheme == "orthogonal" and len(set(widths)) == 1:
        assert bound == pytest.approx(predicted[-1] / predicted[0], rel=1e-10)


@pytest.mark.parametrize(("gain", "layers"), [(1.0, 1), (1.0, 4), (0.7, 3), (1.5, 4)])
def test_orthogonal_weights_have_the_condition_number_of_the_data(gain, layers):
    net = plain_net([3] * (layers + 1), "orthogonal", gain=gain)
    x = inputs(3)
    S = x.T @ x / len(x)
    predicted = orthogonal_gauss_newton_spectrum(S, layers, gain=gain)
    found = deep_linear_gauss_newton_spectrum(matrices(net), S)
    np.testing.assert_allclose(found, predicted, rtol=1e-12)
    assert predicted[-1] / predicted[0] == pytest.approx(np.linalg.cond(S), rel=1e-12)


@pytest.mark.parametrize(("gain", "layers"), [(1.0, 1), (1.0, 2), (1.0, 5), (0.7, 3), (1.5, 4)])
def test_orthogonal_weights_have_the_hessian_of_a_rotated_identity_start(gain, layers):
    net = plain_net([3] * (layers + 1), "orthogonal", seed=layers, gain=gain)
    x = inputs(3)
    y = targets(x)
    product = np.linalg.multi_dot([np.eye(3), *reversed(matrices(net))])
    predicted = np.linalg.eigvalsh(orthogonal_hessian(x.T @ x / len(x), y.T @ x / len(x), product, layers))
    found = np.linalg.eigvalsh(dense(net, x, y)[0])
    np.testing.assert_allclose(found, predicted, rtol=0, atol=1e-13 * np.abs(predicted).max())


def products(width, layers, draws, seed=0):
    rng = np.random.default_rng(seed)
    result = np.broadcast_to(np.eye(width), (draws, width, width))
    for _ in range(layers):
        result = rng.standard_normal((draws, width, width)) / math.sqrt(width) @ result
    return result


def test_what_is_exact_of_gaussian_products():
    width, layers, draws = 4, 3, 4000
    result = products(width, layers, draws)
    mu = gaussian_lyapunov_exponents(width)
    deviations = gaussian_log_singular_value_deviations(width, layers)
    for found, mean, deviation in (
        (np.log(np.linalg.norm(result[:, :, 0], axis=1)), layers * mu[0], deviations[0]),
        (np.linalg.slogdet(result)[1], layers * mu.sum(), math.sqrt(np.square(deviations).sum())),
    ):
        assert found.mean() == pytest.approx(mean, abs=4 * deviation / math.sqrt(draws))
        assert found.std() == pytest.approx(deviation, rel=0.06)


def test_log_singular_values_of_long_products():
    """With relative error O(1/L), from triangular factors, since float64 cannot hold the product itself."""
    width, layers, draws = 3, 200, 300
    rng = np.random.default_rng(0)
    frame, logs = np.broadcast_to(np.eye(width), (draws, width, width)), np.zeros((draws, width))
    for _ in range(layers):
        frame, upper = np.linalg.qr(rng.standard_normal((draws, width, width)) / math.sqrt(width) @ frame)
        logs += np.log(np.abs(np.diagonal(upper, axis1=1, axis2=2)))
    deviation = gaussian_log_singular_value_deviations(width, layers)
    mean = layers * gaussian_lyapunov_exponents(width)
    np.testing.assert_allclose(logs.mean(axis=0), mean, atol=4 * deviation.max() / math.sqrt(draws))
    np.testing.assert_allclose(logs.std(axis=0), deviation, rtol=0.15)
    assert gaussian_log_singular_value_deviations(width, [[1, 2]]).shape == (1, 2, 3)


def test_weight_variance_moves_all_exponents_alike():
    difference = gaussian_lyapunov_exponents(5, 2.0) - gaussian_lyapunov_exponents(5)
    np.testing.assert_allclose(difference, math.log(2) / 2)


def test_mean_trace_at_xavier_initialisation():
    x = inputs(3)
    S = x.T @ x / len(x)
    traces = [
        deep_linear_gauss_newton_spectrum(matrices(plain_net([3] * 5, seed=seed)), S).sum()
        for seed in range(300)
    ]
    expected = float(gaussian_gauss_newton_mean_trace(np.trace(S), 3, 4))
    assert expected == pytest.approx(4 * 3 * np.trace(S))
    assert np.mean(traces) == pytest.approx(expected, abs=4 * np.std(traces) / math.sqrt(300))


@pytest.mark.parametrize("width", [3, 6, 10])
def test_growth_of_the_condition_number_at_xavier_initialisation(width):
    """An asymptotic law, read at 4 and 8 layers: within 15 %."""

    def decades(layers):
        found = []
        for seed in range(60):
            weights = matrices(plain_net([width] * (layers + 1), seed=seed))
            values = deep_linear_gauss_newton_spectrum(weights, np.eye(width))
            found.append(math.log10(values[-1] / values[0]))
        return np.mean(found)

    assert (decades(8) - decades(4)) / 4 == pytest.approx(gaussian_condition_growth(width), rel=0.15)


def test_growth_by_percentile():
    mu = gaussian_lyapunov_exponents(10)
    assert gaussian_condition_growth(10) == pytest.approx(2 * (mu[0] - mu[9]) / math.log(10))
    # 9 of 100 eigenvalues have both exponents among the last three, 16 among the last four.
    assert gaussian_condition_growth(10, 10) == pytest.approx(2 * (mu[0] - mu[6]) / math.log(10))


def test_dense_operators_agree_with_the_gauss_newton_spectrum():
    net = plain_net([3, 3, 3])
    x = inputs(3)
    with gs.gauss_newton(problem(net, x, targets(x)), check="none") as operator:
        found = np.linalg.eigvalsh(operator.dense().numpy())
    predicted = deep_linear_gauss_newton_spectrum(matrices(net), x.T @ x / len(x))
    np.testing.assert_allclose(found, [*[0] * 9, *predicted], rtol=0, atol=1e-13 * predicted[-1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deep_linear_gauss_newton_spectrum([], np.eye(2)), "of no layer"),
        (
            lambda: deep_linear_gauss_newton_spectrum([np.ones((3, 2)), np.ones((2, 2))], np.eye(2)),
            "input side",
        ),
        (
            lambda: deep_linear_gauss_newton_spectrum([np.eye(2)], np.eye(3)),
            r"sigma_xx must have shape \[2, 2\]",
        ),
        (lambda: deep_linear_gauss_newton_bound([np.eye(2)], [[1, 1], [0, 1]]), "must be symmetric"),
        (
            lambda: orthogonal_hessian(np.eye(2), np.eye(2), np.diag([1, 2]), 2),
            "singular values are .2.0, 1.0",
        ),
        (lambda: orthogonal_gauss_newton_spectrum(np.eye(2), 2, gain=0), "gain must be above 0"),
        (lambda: gaussian_lyapunov_exponents(0), "width is a whole number"),
        (lambda: gaussian_condition_growth(3, 100), r"percentile must be in \[0, 100\)"),
        (lambda: gaussian_gauss_newton_mean_trace(-1, 2, 2), "trace_sigma_xx must be at least 0"),
    ],
)
def test_arguments_outside_their_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
