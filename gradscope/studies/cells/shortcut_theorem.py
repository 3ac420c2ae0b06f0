"""Cells of the conditioning analysis: how far the law of 2-shortcut networks at zero reaches, and what breaks it."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.curvature.condition import condition_number
from gradscope.curvature.hessian import hessian
from gradscope.curvature.units import EIGENVALUE
from gradscope.nets import build, initialise
from gradscope.problem import Problem
from gradscope.studies.block_curvature import block_curvature
from gradscope.studies.cells.conditioning import DIMENSION, whitened_digits
from gradscope.theory import (
    biased_two_shortcut_spectrum,
    branch_correlation_matrix,
    convolution_correlation_matrix,
    cross_entropy_gradients,
    post_rectified_correlation_matrices,
    post_rectified_spectrum,
    rectified_branch_spectrum,
    residual_correlation_matrix,
    two_shortcut_spectrum,
)

if TYPE_CHECKING:
    import pandas as pd

INNER, TINY = 4, 1e-6
"""Units inside a block, and weights that stand for their limit at zero."""

SIDE, FEW = 4, 100
"""Of convolutions: the side of the images that the components are laid out on, and how many of them."""

Case = tuple[Problem, np.ndarray]


def _network(layers: int, **options: Any) -> nn.Module:
    model = build("linear_shortcut", layers=layers, shortcut_length=2, inner_width=INNER, **options).double()
    return initialise(model, "zero")


def _cross_entropy(layers: int, x: Tensor, y: Tensor) -> Case:
    labels = y.argmax(dim=1)
    matrix = branch_correlation_matrix(cross_entropy_gradients(x.numpy(), labels.numpy()), x.numpy())
    problem = Problem(_network(layers, width=DIMENSION), (x, labels))
    return problem, two_shortcut_spectrum(matrix, layers // 2, INNER)


def _maps(layers: int, x: Tensor, y: Tensor) -> Case:
    generator = torch.Generator().manual_seed(0)
    inwards, outwards = torch.randn(2, DIMENSION, DIMENSION, generator=generator, dtype=x.dtype) / math.sqrt(
        10
    )
    problem = Problem(
        _network(layers, width=DIMENSION),
        (x, y),
        "half_squared_error",
        forward=lambda model, inputs: model(inputs @ inwards.T) @ outwards.T,
    )
    entering = x @ inwards.T
    gradients = entering @ outwards.T - y
    matrix = branch_correlation_matrix(gradients.numpy(), entering.numpy(), output_map=outwards.numpy())
    return problem, two_shortcut_spectrum(matrix, layers // 2, INNER)


def _before(layers: int, x: Tensor, y: Tensor) -> Case:
    matrix = branch_correlation_matrix((x - y).numpy(), x.relu().numpy())
    problem = Problem(_network(layers, width=DIMENSION, pre_activation="relu"), (x, y), "half_squared_error")
    return problem, two_shortcut_spectrum(matrix, layers // 2, INNER)


def _after(layers: int, x: Tensor, y: Tensor) -> Case:
    problem = Problem(_network(layers, width=DIMENSION, post_activation="relu"), (x, y), "half_squared_error")
    matrices = post_rectified_correlation_matrices((x.relu() - y).numpy(), x.numpy())
    return problem, post_rectified_spectrum(*matrices, layers // 2, INNER)


def _convolution(layers: int, x: Tensor, y: Tensor) -> Case:
    x, y = x[:FEW], y[:FEW]
    images = functional.pad(x, (0, SIDE * SIDE - DIMENSION)).view(-1, 1, SIDE, SIDE)
    wanted = functional.pad(y, (0, SIDE * SIDE - DIMENSION)).view(-1, 1, SIDE, SIDE)
    problem = Problem(_network(layers, width=1, kernel_size=3), (images, wanted), "half_squared_error")
    matrix = convolution_correlation_matrix((images - wanted).numpy(), images.numpy())
    return problem, two_shortcut_spectrum(matrix, layers // 2, INNER)


def _biases(layers: int, x: Tensor, y: Tensor) -> Case:
    problem = Problem(_network(layers, width=DIMENSION, bias=True), (x, y), "half_squared_error")
    mean = (x - y).mean(dim=0).numpy()
    correlation = residual_correlation_matrix(x.numpy(), y.numpy())
    return problem, biased_two_shortcut_spectrum(correlation, mean, layers // 2, INNER)


def _rectified(layers: int, x: Tensor, y: Tensor) -> Case:
    model = _network(layers, width=DIMENSION, mid_activation="relu")
    initialise(model, "small", scale=TINY, seed=layers)
    firsts = [weight.detach().numpy() for weight in list(model.parameters())[::2]]
    problem = Problem(model, (x, y), "half_squared_error")
    return problem, rectified_branch_spectrum((x - y).numpy(), x.numpy(), np.stack(firsts))


def _rectified_at_zero(layers: int, x: Tensor, y: Tensor) -> Case:
    problem = Problem(_network(layers, width=DIMENSION, mid_activation="relu"), (x, y), "half_squared_error")
    matrix = residual_correlation_matrix(x.numpy(), y.numpy())
    return problem, two_shortcut_spectrum(matrix, layers // 2, INNER)


GENERALISED: dict[str, Callable[[int, Tensor, Tensor], Case]] = {
    "softmax cross-entropy": _cross_entropy,
    "input and output maps": _maps,
    "ReLU before": _before,
    "ReLU after the addition": _after,
    "3x3 convolutions": _convolution,
}
"""Where the law holds with another correlation matrix."""

BROKEN: dict[str, Callable[[int, Tensor, Tensor], Case]] = {
    "biases": _biases,
    "ReLU between, small weights": _rectified,
    "ReLU between, zero": _rectified_at_zero,
}
"""Where it does not, beside what holds instead: the last has the law of linear networks, which it misses altogether."""


def beside_its_law(case: str, layers: int, seed: int) -> "pd.DataFrame":
    """The dense Hessian of one case of `GENERALISED` or `BROKEN` beside its closed form.

    Rows: `spectrum_deviation` (over the largest eigenvalue of the closed form), `lambda_max`, `lambda_min`,
    `share_zero` (below 1e-12 of the largest), `largest_entry_ratio` (largest entry over the largest eigenvalue of the
    closed form), condition numbers by two definitions, and the closed form's `lambda_max` and `percentile_10` as
    `closed_form`.
    """
    import pandas as pd

    inputs, targets = whitened_digits(seed)
    problem, expected = (GENERALISED | BROKEN)[case](layers, inputs, targets)
    with hessian(problem, check="none") as operator:
        matrix = operator.dense()
    spectrum = torch.linalg.eigvalsh(matrix)
    largest, top = float(np.abs(expected).max()), float(spectrum.abs().max())
    deviation = float((spectrum - torch.from_numpy(expected)).abs().max()) / largest
    zero = float((spectrum.abs() <= 1e-12 * top).double().mean())
    rows = [
        _row("spectrum_deviation", "1", deviation),
        _row("lambda_max", EIGENVALUE, float(spectrum[-1])),
        _row("lambda_min", EIGENVALUE, float(spectrum[0])),
        _row("share_zero", "1", zero),
        _row("largest_entry_ratio", "1", float(matrix.abs().max()) / largest),
        _row("closed_form", EIGENVALUE, float(expected[-1])),
    ]
    numbers = [condition_number(spectrum, definition) for definition in ("extreme_ratio", "percentile_10")]
    frame = pd.concat([pd.DataFrame(rows), *numbers], ignore_index=True)
    return frame[["quantity", "definition", "unit", "value", "low", "high", "status", "reason"]]


def layer_by_layer(layers: int, seed: int) -> "pd.DataFrame":
    """Every block of the Hessian of a linear 2-shortcut network at zero: `block_curvature` by layer, all pairs."""
    inputs, targets = whitened_digits(seed)
    problem = Problem(_network(layers, width=DIMENSION), (inputs, targets), "half_squared_error")
    return block_curvature(problem, "layer", progress=False)


def _row(quantity: str, unit: str, value: float) -> dict[str, Any]:
    return {"quantity": quantity, "unit": unit, "value": value, "status": "ok", "reason": ""}
