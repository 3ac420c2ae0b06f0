"""Cells of the conditioning analysis: Hessians of deep linear networks, and of trained ones."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.curvature.condition import condition_number
from gradscope.curvature.density import spectral_density
from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.hessian import hessian
from gradscope.curvature.units import EIGENVALUE
from gradscope.data import digits
from gradscope.nets import build, initialise
from gradscope.problem import Problem
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained
from gradscope.theory.shortcut_hessian import (
    residual_correlation_matrix,
    two_shortcut_condition_number,
    two_shortcut_spectrum,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

DIMENSION, EXAMPLES, PROBES = 10, 600, 5
COMPARED_LAYERS = 6
"""Up to this depth, the 1-shortcut network's Hessian is compared with that of the identity start."""

LINEAR: dict[str, tuple[int, str]] = {
    "plain, Xavier": (0, "xavier"),
    "plain, orthogonal": (0, "orthogonal"),
    "1-shortcut, zero": (1, "zero"),
    "2-shortcut, zero": (2, "zero"),
    "2-shortcut, small": (2, "small"),
    "3-shortcut, zero": (3, "zero"),
    "3-shortcut, small": (3, "small"),
}
"""Network -> (length of its shortcuts, initialisation)."""

SMALL = 0.01
"""Standard deviation of small weights."""


def begin(model: nn.Module, scheme: str, seed: int) -> nn.Module:
    """A network of the analyses at its start: `small` weights are of `SMALL`, and nothing is drawn at zero."""
    options: dict[str, Any] = {"scale": SMALL} if scheme == "small" else {}
    return initialise(model, scheme, seed=None if scheme == "zero" else seed, **options)


def linear_network(network: str, layers: int, seed: int) -> nn.Module:
    """One of `LINEAR` at its start, in float64."""
    length, scheme = LINEAR[network]
    model = build("linear_shortcut", layers=layers, shortcut_length=length, width=DIMENSION).double()
    return begin(model, scheme, seed)


def product(model: nn.Module) -> "np.ndarray":
    """W_L ... W_1 of a network without shortcuts, [width, width]."""
    weights = [weight.detach() for weight in model.parameters()]
    return torch.linalg.multi_dot([*reversed(weights), torch.eye(DIMENSION, dtype=weights[0].dtype)]).numpy()


def whitened_digits(seed: int) -> tuple[Tensor, Tensor]:
    """600 of the digits, drawn by `seed`: 10 whitened principal components, one-hot targets; float64, [600, 10].

    Stands in for the paper's whitened MNIST of the same width. Li et al. (2016), arXiv:1611.01186.
    """
    data = digits()
    images = torch.cat([data.train[0], data.test[0]]).double().flatten(start_dim=1)
    labels = torch.cat([data.train[1], data.test[1]])
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
    centred = images[chosen] - images[chosen].mean(dim=0)
    left, _, _ = torch.linalg.svd(centred, full_matrices=False)
    inputs = left[:, :DIMENSION] * math.sqrt(EXAMPLES)
    return inputs, nn.functional.one_hot(labels[chosen], DIMENSION).double()


def linear_hessian(network: str, layers: int, seed: int) -> "pd.DataFrame":
    """The dense Hessian of one deep linear network of `LINEAR`, read by name, beside its closed form.

    Rows: `lambda_max`, `lambda_min`, `share_negative`, `condition_number` by two definitions; what its theory
    allows to check: `condition_deviation`, `spectrum_deviation` (2-shortcut), `difference_from_identity_start`
    (1-shortcut), `largest_entry` of gradient and Hessian (3-shortcut); and every `eigenvalue`.
    """
    import pandas as pd

    length, scheme = LINEAR[network]
    inputs, targets = whitened_digits(seed)
    model = linear_network(network, layers, seed)
    matrix = _dense(model, inputs, targets)
    spectrum = torch.linalg.eigvalsh(matrix)
    rows = [
        _row("lambda_max", EIGENVALUE, float(spectrum[-1])),
        _row("lambda_min", EIGENVALUE, float(spectrum[0])),
        _row("share_negative", "1", float((spectrum < 0).double().mean())),
        *(_checks(length, layers, model, matrix, spectrum, inputs, targets) if scheme == "zero" else ()),
    ]
    numbers = [condition_number(spectrum, definition) for definition in ("extreme_ratio", "percentile_10")]
    ranked = enumerate(reversed(spectrum.tolist()), start=1)
    values = [_row("eigenvalue", EIGENVALUE, value) | {"rank": rank} for rank, value in ranked]
    frame = pd.concat([pd.DataFrame(rows), *numbers, pd.DataFrame(values)], ignore_index=True)
    return frame[["quantity", "definition", "unit", "rank", "value", "low", "high", "status", "reason"]]


def loss_order(layers: int, seed: int) -> "pd.DataFrame":
    """By which power of the weights' scale s the loss of a 3-shortcut network moves away from its zero point."""
    import pandas as pd

    inputs, targets = whitened_digits(seed)
    model = build("linear_shortcut", seed=seed, layers=layers, shortcut_length=3, width=DIMENSION)
    problem = _problem(model.double(), inputs, targets)
    direction = [parameter.detach().clone() for parameter in problem.model.parameters()]

    def moved(scale: float) -> float:
        with torch.no_grad():
            for parameter, start in zip(problem.model.parameters(), direction, strict=True):
                parameter.copy_(scale * start)
            return float(problem.value(*problem.first_batch()))

    change = [abs(moved(scale) - moved(0.0)) for scale in (1e-3, 1e-2)]
    slope = math.log10(change[1] / change[0]) if min(change) > 0 else math.nan
    return pd.DataFrame([_row("order", "1", slope)])


def trained_spectrum(
    family: str,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    lanczos_steps: int,
    seed: int,
    *,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """Extreme eigenvalues and spectral density of a trained network's Hessian on a few training images.

    Batch normalisation with stored statistics; float32 products. Five probes of half of `lanczos_steps` products each.
    """
    import pandas as pd

    data_of = data_set(data, root)
    model = trained(family, layers, seed, data_of, epochs=epochs, folder=folder)
    inputs, labels = data_of.train
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:images]
    with hessian(Problem(model, (inputs[chosen], labels[chosen]))) as operator:
        extremes = extreme_eigenvalues(operator, 5, max_products=4 * lanczos_steps)
        ratio = condition_number(extremes, "negative_ratio")
        density = spectral_density(operator, probes=PROBES, steps=lanczos_steps // 2)
    return pd.concat([extremes, ratio, density], ignore_index=True)


def _checks(
    length: int,
    layers: int,
    model: nn.Module,
    matrix: Tensor,
    spectrum: Tensor,
    inputs: Tensor,
    targets: Tensor,
) -> Iterator[dict[str, Any]]:
    correlation = residual_correlation_matrix(inputs.numpy(), targets.numpy())
    if length == 1 and layers <= COMPARED_LAYERS:
        plain = build("linear_shortcut", layers=layers, shortcut_length=0, width=DIMENSION).double()
        with torch.no_grad():
            for weight in plain.parameters():
                weight.copy_(torch.eye(DIMENSION))
        difference = (matrix - _dense(plain, inputs, targets)).abs().max() / matrix.abs().max()
        yield _row("difference_from_identity_start", "1", float(difference))
    elif length == 2:
        expected = torch.from_numpy(two_shortcut_spectrum(correlation, layers // 2, DIMENSION))
        sizes = spectrum.abs()
        ratio = float(sizes.max() / sizes.min()) / two_shortcut_condition_number(correlation)
        yield _row("condition_deviation", "1", abs(ratio - 1))
        yield _row("spectrum_deviation", "1", float((spectrum - expected).abs().max() / expected.max()))
        yield from (_row("closed_form", EIGENVALUE, float(value)) for value in expected)
    elif length == 3:
        problem = _problem(model, inputs, targets)
        slopes = torch.autograd.grad(problem.value(*problem.first_batch()), list(model.parameters()))
        largest = max(float(matrix.abs().max()), *(float(slope.abs().max()) for slope in slopes))
        yield _row("largest_entry", "loss", largest)


def _problem(model: nn.Module, inputs: Tensor, targets: Tensor) -> Problem:
    return Problem(model, (inputs, targets), "half_squared_error")


def _dense(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    with hessian(_problem(copy.deepcopy(model), inputs, targets), check="none") as operator:
        return operator.dense()


def _row(quantity: str, unit: str, value: float) -> dict[str, Any]:
    undefined = {"status": "undefined", "reason": "not a finite number"}
    return {"quantity": quantity, "unit": unit, "value": value} | (
        {"status": "ok", "reason": ""} if math.isfinite(value) else undefined
    )
