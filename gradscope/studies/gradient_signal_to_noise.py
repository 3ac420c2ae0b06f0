"""In which layers is the mean gradient larger than its scatter over examples?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from gradscope.gradients.example_values import ExampleSource
from gradscope.gradients.signal_to_noise import signal_to_noise
from gradscope.measures.correlation import Estimate
from gradscope.measures.signal_to_noise import SignalToNoise
from gradscope.problem import as_problem
from gradscope.progress import progress
from gradscope.studies.agreement.layers import places
from gradscope.studies.agreement.rows import with_value, without_value

if TYPE_CHECKING:
    import pandas as pd

STEADY = "no parameter's gradient varies over examples"


def gradient_signal_to_noise(
    problem: Any,
    *,
    at: str | Sequence[str] | None = None,
    source: ExampleSource = "loss",
    show: bool | None = None,
) -> "pd.DataFrame":
    """Gradient signal-to-noise ratio (GSNR) of each layer: squared mean over variance of a parameter's gradient.

    Large when examples agree about a parameter; about 1 / n over n examples when they agree about nothing. Over all
    batches, at one forward and backward pass for each example, many times the cost of `gradient_agreement`; where
    examples mix, a backward pass of the whole batch for each. See `gradients/signal_to_noise.py`.

    Args:
        problem: Problem or (model, data), with two examples or more.
        at: Layers, as in `instruments.sites`; None for every module with parameters of its own.
        source: What is differentiated for each example, as in `gradient_agreement`.
        show: Progress, as in `progress`.

    Returns:
        Frame with a row for each layer and quantity, and rows of `site` "all parameters": `gsnr_mean` and
        `gsnr_median` over the parameters that vary over examples, no epsilon added; `gsnr_steady_parameters`, how many
        have the same gradient for all examples (their ratio is infinite), and `gsnr_zero_parameters`, how many have
        none (undefined): both are left out of the mean. Columns `source`, `batch_norm`, `batches` ("all":
        examples of all batches are compared), `quantity`, `unit`, `site`, `depth`, `value`, `low`, `high` (empty:
        parameters are no sample), `n` (examples), `status`, `reason`.

    Raises:
        ValueError: Fewer than two examples, an unknown source, or no parameters.

    Source:
        Liu et al. (2020), arXiv:2001.07384.
    """
    import pandas as pd

    problem = as_problem(problem)
    with progress("gradient signal-to-noise", problem.examples, show=show) as advance:
        found = signal_to_noise(problem, at=at, source=source, advance=advance)
    where = places(problem, at)
    rows = []
    for name, statistics in sorted(found.items(), key=lambda item: _order(where[item[0]].depth)):
        rows += [{"site": name, "depth": where[name].depth} | row for row in _rows(statistics)]
    whole = SignalToNoise.joined(list(found.values()))
    rows += [{"site": "all parameters", "depth": math.nan} | row for row in _rows(whole)]
    frame = pd.DataFrame(rows).assign(
        source=str(getattr(source, "__name__", source)), batch_norm=problem.batch_norm_name, batches="all"
    )
    return frame[_COLUMNS]


_COLUMNS = [
    *("source", "batch_norm", "batches", "quantity", "unit", "site", "depth"),
    *("value", "low", "high", "n", "status", "reason"),
]


_UNITS = {
    "gsnr_mean": "1",
    "gsnr_median": "1",
    "gsnr_steady_parameters": "parameters",
    "gsnr_zero_parameters": "parameters",
}


def _rows(statistics: SignalToNoise) -> list[dict[str, Any]]:
    if bool(torch.isfinite(statistics.mean()).all() and torch.isfinite(statistics.variance()).all()):
        found = statistics.summary()
        numbers = [float(found.mean), float(found.median), float(found.constant), float(found.zero)]
        values = {
            quantity: with_value(Estimate(value, math.nan, math.nan), STEADY)
            for quantity, value in zip(_UNITS, numbers, strict=True)
        }
    else:
        left = without_value("undefined", "a gradient or its square is infinite or NaN")
        values = dict.fromkeys(_UNITS, left)
    return [
        {"quantity": quantity, "unit": _UNITS[quantity], "n": statistics.examples} | value
        for quantity, value in values.items()
    ]


def _order(depth: float) -> float:
    return math.inf if math.isnan(depth) else depth
