"""Cells of the stability analysis: deep linear networks under gradient descent, over rates and along the way."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gradscope.curvature.condition import condition_number
from gradscope.curvature.hessian import hessian
from gradscope.curvature.units import EIGENVALUE
from gradscope.nets import build
from gradscope.problem import Problem
from gradscope.studies.cells.conditioning import DIMENSION, begin, whitened_digits

if TYPE_CHECKING:
    import pandas as pd

NETWORKS: dict[str, tuple[int, str]] = {
    "plain, Xavier": (0, "xavier"),
    "plain, orthogonal": (0, "orthogonal"),
    "1-shortcut, zero": (1, "zero"),
    "2-shortcut, small": (2, "small"),
    "3-shortcut, small": (3, "small"),
}
"""Network -> (length of its shortcuts, initialisation). At exactly zero the last two have no gradient."""

DIVERGED, DIVERGENCE = 1e6, "diverged: the loss left all bounds"
"""Losses above so many times that of predicting zero are not followed."""

READ = (
    *(("loss", "loss"), ("excess_loss", "1"), ("share_negative", "1")),
    *(("lambda_max", EIGENVALUE), ("lambda_min", EIGENVALUE)),
)
"""What is read along training beside condition numbers, with its unit."""

RATES = tuple(2.0**-power for power in range(-1, 11))
"""The grid of learning rates: the paper's own is not known."""


def start(network: str, layers: int, seed: int) -> nn.Module:
    """A fresh linear network of `NETWORKS`, in float64."""
    length, scheme = NETWORKS[network]
    model = build("linear_shortcut", layers=layers, shortcut_length=length, width=DIMENSION).double()
    return begin(model, scheme, seed)


def learning_rate_grid(network: str, layers: int, steps: int, seed: int) -> "pd.DataFrame":
    """Full-batch gradient descent from one start with every rate of `RATES`, all at once.

    Rows of `excess_loss` after the last step, one for each `learning_rate`: the loss above that of least squares,
    which no linear network can beat, over the same for predicting zero. Undefined where the loss was no longer finite.
    """
    import pandas as pd

    inputs, targets = whitened_digits(seed)
    inputs, targets = condensed(inputs, targets)
    model = start(network, layers, seed)
    losses = _descend(model, inputs, targets, torch.tensor(RATES, dtype=torch.float64), steps)[-1]
    least, nothing = bounds(inputs, targets)
    rows = []
    for rate, loss in zip(RATES, losses.tolist(), strict=True):
        excess = (loss - least) / (nothing - least)
        finite = math.isfinite(excess)
        rows.append(
            {
                "learning_rate": rate,
                "quantity": "excess_loss",
                "unit": "1",
                "value": excess if finite else math.nan,
                "status": "ok" if finite else "undefined",
                "reason": "" if finite else DIVERGENCE,
            }
        )
    return pd.DataFrame(rows)


def along_training(
    network: str, layers: int, learning_rate: float, steps: tuple[int, ...], seed: int
) -> "pd.DataFrame":
    """The dense Hessian of one linear network after so many steps of gradient descent, read by name.

    Rows by `step`: `loss`, `excess_loss`, `lambda_max`, `lambda_min`, `negative_ratio` and `percentile_10` (as
    `condition_number` with their `definition`), `share_negative` (below -1e-12 of the largest absolute value). From
    the step on at which training has diverged, all are undefined.
    """
    import pandas as pd

    inputs, targets = whitened_digits(seed)
    inputs, targets = condensed(inputs, targets)
    model = start(network, layers, seed)
    least, nothing = bounds(inputs, targets)
    problem = Problem(model, (inputs, targets), "half_squared_error")
    frames, done = [], 0
    for step in steps:
        _walk(problem, learning_rate, step - done)
        done = step
        loss = float(problem.value(inputs, targets).detach())
        if not loss < DIVERGED * nothing:
            frames.append(pd.DataFrame([_row(*named, math.nan) for named in READ]).assign(step=step))
            continue
        with hessian(problem, check="none") as operator:
            spectrum = torch.linalg.eigvalsh(operator.dense())
        negative = spectrum < -1e-12 * spectrum.abs().max()
        rows = [
            _row("loss", "loss", loss),
            _row("excess_loss", "1", (loss - least) / (nothing - least)),
            _row("lambda_max", EIGENVALUE, float(spectrum[-1])),
            _row("lambda_min", EIGENVALUE, float(spectrum[0])),
            _row("share_negative", "1", float(negative.double().mean())),
        ]
        numbers = [condition_number(spectrum, name) for name in ("negative_ratio", "percentile_10")]
        frames.append(pd.concat([pd.DataFrame(rows), *numbers], ignore_index=True).assign(step=step))
    frame = pd.concat(frames, ignore_index=True)
    return frame[["step", "quantity", "definition", "unit", "value", "low", "high", "status", "reason"]]


def condensed(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As few examples as there are numbers in an input and a target, with the same second moments.

    The square loss of a linear network depends on the data through them alone, and so does its Hessian.
    """
    whole = torch.cat([inputs, targets], dim=1)
    few = torch.linalg.qr(whole).R * math.sqrt(whole.shape[1] / len(whole))
    return few[:, : inputs.shape[1]], few[:, inputs.shape[1] :]


def bounds(inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """The loss of least squares, and that of predicting zero: E |y|^2 / 2."""
    solution = torch.linalg.lstsq(inputs, targets).solution
    least = (inputs @ solution - targets).square().sum() / (2 * len(inputs))
    return float(least), float(targets.square().sum() / (2 * len(inputs)))


def _descend(model: nn.Module, inputs: Tensor, targets: Tensor, rates: Tensor, steps: int) -> Tensor:
    """Losses before each step and after the last, [steps + 1, rates]; one copy of the weights a rate."""
    weights = {
        name: weight.detach().expand(len(rates), *weight.shape).clone().requires_grad_()
        for name, weight in model.named_parameters()
    }

    def loss(one: dict[str, Tensor]) -> Tensor:
        return (functional_call(model, one, (inputs,)) - targets).square().sum() / (2 * len(inputs))

    losses = []
    for step in range(steps + 1):
        values = vmap(loss)(weights)
        losses.append(values.detach())
        if step < steps:
            gradients = torch.autograd.grad(values.sum(), list(weights.values()))
            with torch.no_grad():
                for weight, gradient in zip(weights.values(), gradients, strict=True):
                    weight.sub_(rates.view(-1, *[1] * (weight.ndim - 1)) * gradient)
    return torch.stack(losses)


def _walk(problem: Problem, learning_rate: float, steps: int) -> None:
    weights = list(problem.model.parameters())
    inputs, targets = problem.first_batch()
    for _ in range(steps):
        gradients = torch.autograd.grad(problem.value(inputs, targets), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=learning_rate)


def _row(quantity: str, unit: str, value: float) -> dict[str, Any]:
    known = math.isfinite(value)
    return {
        "quantity": quantity,
        "unit": unit,
        "value": value if known else math.nan,
        "status": "ok" if known else "undefined",
        "reason": "" if known else DIVERGENCE,
    }
