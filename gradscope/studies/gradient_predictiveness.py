"""How long does a gradient stay true along its own direction, and how smooth is the loss there?"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.gradients.gathered import read_once
from gradscope.instruments.batch_norm import batch_norm, described
from gradscope.instruments.quiet import left_as_found
from gradscope.measures.log_norm import log_norms
from gradscope.problem import Problem, as_problem

if TYPE_CHECKING:
    import pandas as pd

STEPS = (0.05, 0.1, 0.2, 0.3, 0.4)
_COLUMNS = [
    *("batch_norm", "quantity", "unit", "step", "learning_rate"),
    *("value", "low", "high", "n", "status", "reason"),
]
Row = dict[str, Any]


def gradient_predictiveness(
    problem: Any,
    *,
    steps: float | Sequence[float] = STEPS,
    relative: bool = False,
    batch_norm: str | None = None,
) -> "pd.DataFrame":
    """Change of the loss and of its gradient along steps against the gradient.

    The less the gradient changes, the better it predicts the loss over a step of training. One forward and one
    backward pass over all batches for each step, and one at the start.

    Args:
        problem: Problem or (model, data), with targets; all batches are used, read once and held, so that every step
            sees the same ones also where a loader shuffles.
        steps: Step sizes, one or more, positive: learning rates eta of w - eta grad L(w).
        relative: Steps are lengths instead, as shares of the norm of the trainable parameters, so that networks of
            different gradients are compared over the same distances.
        batch_norm: As `instruments.batch_norm`. None: the problem's own, except that `auto` becomes `train`, for these
            are questions about training, where statistics follow the weights (and the setting of the paper). `frozen`
            leaves that out of the gradient, but not out of the loss, and says so. Statistics are of each batch.

    Returns:
        Frame with columns `batch_norm` (the meaning in force), `quantity`, `unit`, `step` (as given; 0 at the start,
        NaN over all steps), `learning_rate` (eta), `value`, `low`, `high`, `n` (trainable numbers), `status`,
        `reason`. For each step, with w' = w - eta grad L(w):

        - `loss_along_gradient`: L(w'), as the problem reduces it;
        - `step_length`: |w' - w|, of the numbers as stored, so that a step lost to rounding is seen;
        - `gradient_difference`: |grad L(w') - grad L(w)|, the gradient predictiveness;
        - `relative_gradient_difference`: that over |grad L(w)|;
        - `gradient_difference_per_length`: that over |w' - w|.

        Over all: `gradient_length` |grad L(w)| at step 0, and `effective_smoothness`, the largest
        `gradient_difference_per_length`; `low` and `high` are the smallest and the largest over the steps, no
        interval.

    Raises:
        ValueError: No step, or one that is not positive; a gradient that is zero or not finite at the start; no
            trainable parameter.

    Source:
        Santurkar et al. (2018), How Does Batch Normalization Help Optimization?, arXiv:1805.11604, figure 4.
    """
    import pandas as pd

    sizes = _sizes(steps)
    problem = read_once(as_problem(problem))
    mode = batch_norm or ("train" if problem.batch_norm == "auto" else problem.batch_norm)
    mode = "train" if mode == "own" else mode
    label = described(problem.model, mode)
    parameters = list(problem.parameters.values())
    if not parameters:
        raise ValueError("Steps need trainable parameters, but all of them are frozen (requires_grad=False).")
    with _training(problem, mode), _put_back(parameters) as found:
        start, gradient = _loss_and_gradient(problem, parameters)
        length, weights = _norm(gradient), _norm(found)
        if not math.isfinite(length) or length == 0:
            raise ValueError(
                f"There is no direction to step in: the gradient's norm is {length:g} at the start. See gradient_flow."
            )
        n = sum(parameter.numel() for parameter in parameters)
        rows = [
            _row("loss_along_gradient", "loss", 0.0, 0.0, start, n),
            _row("gradient_length", "loss per parameter", 0.0, 0.0, length, n),
        ]
        ratios = []
        for size in sizes:
            rate = size * weights / length if relative else size
            of_step, ratio = _step(problem, parameters, found, gradient, size, rate, length)
            rows += of_step
            ratios.append(ratio)
    rows.append(_smoothness(ratios, n))
    frame = pd.DataFrame(rows).assign(batch_norm=label)
    if "frozen" in label:
        partial = "statistics are held constant by the gradient, but follow the weights in the loss"
        frame["reason"] = frame["reason"].where(frame["reason"] != "", partial)
    return frame[_COLUMNS]


def _sizes(steps: float | Sequence[float]) -> list[float]:
    try:
        sizes = [float(size) for size in ([steps] if isinstance(steps, int | float) else steps)]
    except (TypeError, ValueError):
        sizes = []
    if isinstance(steps, str) or not sizes or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise ValueError(f"steps are one or more positive numbers, got {steps!r}.")
    return sizes


def _step(
    problem: Problem,
    parameters: Sequence[nn.Parameter],
    found: Sequence[Tensor],
    gradient: Sequence[Tensor],
    size: float,
    rate: float,
    length: float,
) -> tuple[list[Row], float]:
    """Rows of one step, and its change of gradient for each unit of length; NaN where the step went nowhere."""
    with torch.no_grad():
        for parameter, value, slope in zip(parameters, found, gradient, strict=True):
            parameter.data = value - (rate * slope).to(value.dtype)
        moved = _norm([p.double() - v.double() for p, v in zip(parameters, found, strict=True)])
    loss, there = _loss_and_gradient(problem, parameters)
    change = _norm([a - b for a, b in zip(there, gradient, strict=True)])
    ratio = change / moved if moved > 0 else math.nan
    n = sum(parameter.numel() for parameter in parameters)
    values = [
        ("loss_along_gradient", "loss", loss),
        ("step_length", "parameter", moved),
        ("gradient_difference", "loss per parameter", change),
        ("relative_gradient_difference", "1", change / length),
        ("gradient_difference_per_length", "loss per squared parameter", ratio),
    ]
    return [_row(name, unit, size, rate, value, n) for name, unit, value in values], ratio


def _smoothness(ratios: Sequence[float], n: int) -> Row:
    unit = "loss per squared parameter"
    if not all(map(math.isfinite, ratios)):
        row = _row("effective_smoothness", unit, math.nan, math.nan, math.nan, n)
        return row | {
            "reason": "at one of the steps the change of the gradient for each unit of length is undefined"
        }
    row = _row("effective_smoothness", unit, math.nan, math.nan, max(ratios), n)
    return row | {"low": min(ratios), "high": max(ratios)}


def _row(quantity: str, unit: str, step: float, rate: float, value: float, n: int) -> Row:
    fine = math.isfinite(value)
    return {
        "quantity": quantity,
        "unit": unit,
        "step": step,
        "learning_rate": rate,
        "value": value if fine else math.nan,
        "low": math.nan,
        "high": math.nan,
        "n": n,
        "status": "ok" if fine else "undefined",
        "reason": "" if fine else "the step was lost to rounding, or the loss or its gradient is not finite",
    }


@contextmanager
def _training(problem: Problem, mode: str) -> Iterator[None]:
    """Eval mode (no dropout) with the meaning of batch normalisation asked for."""
    with left_as_found(problem.model), batch_norm(problem.model, mode):
        problem.model.eval()
        yield


@contextmanager
def _put_back(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """The parameters' values; other ones put in their place meanwhile are taken out again on leaving.

    The numbers themselves are never written to, so a graph that the user holds can still be run backwards.
    """
    found = [parameter.data for parameter in parameters]
    try:
        yield found
    finally:
        for parameter, value in zip(parameters, found, strict=True):
            parameter.data = value


def _loss_and_gradient(problem: Problem, parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
    """Loss over all batches and its gradient, in float64."""
    loss = 0.0
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    with torch.enable_grad():
        for batch in problem.batches():
            value = problem.value(*batch)
            slopes = torch.autograd.grad(value, parameters, materialize_grads=True)
            loss += float(value.detach())
            total = [a + b.double() for a, b in zip(total, slopes, strict=True)]
    return loss, total


def _norm(tensors: Sequence[Tensor]) -> float:
    logs = torch.cat([log_norms(tensor.detach().reshape(1, -1)) for tensor in tensors])
    log = float(torch.logsumexp(2 * logs, dim=0)) / 2
    return math.exp(log) if log < 709 or math.isnan(log) else math.inf
