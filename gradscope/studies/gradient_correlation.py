"""Do gradients shatter in this network, and where?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.instruments.junctions.source import source_of
from gradscope.instruments.listen import Heard, on_gradient
from gradscope.instruments.sites import sites
from gradscope.measures.correlation import correlation_R_interval, mean_cosine
from gradscope.problem import Problem, as_problem, examples_in

if TYPE_CHECKING:
    import pandas as pd

SOURCES = ("output", "loss")


def gradient_correlation(
    problem: Any, *, at: str | Sequence[str] | None = None, source: str = "output"
) -> "pd.DataFrame":
    """Correlation between the gradients of different examples, at the input and at every layer's output.

    Near 1, examples pull the weights the same way; near 0, their gradients are as unrelated as white
    noise ("shattered").

    Args:
        problem: Problem or (model, data); the first batch is used, and needs two examples or more. Of a
            bare pair the targets may be missing if `source` is `output`.
        at: Sites, as in `instruments.sites`; None for every module with parameters of its own.
        source: What is differentiated for each example: `output`, the sum of its outputs
            (Definition 1), or `loss`, whose factor p - y flips signs between classes.

    Returns:
        Frame with a row for each site and quantity: `correlation_R`, ratio of sums, with its jackknife 95 %
        interval over examples; `mean_cosine` over pairs of non-zero gradients. Columns `source`,
        `batch_norm` (the meaning in force), `quantity`, `unit`, `site` (`input` first; for integers, what the
        embedding makes of them), `depth` (order of running, input 0), `call`, `value`, `low`, `high`, `n`
        (examples with a non-zero gradient), `n_zero`, `status`, `reason`. A site whose output has no row for
        each example (windows, flattened tokens) is `skipped`.

    Raises:
        ValueError: Fewer than two examples, an unknown source, or no site.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591, Definition 1.
    """
    import pandas as pd

    problem = as_problem(problem)
    if source not in SOURCES:
        raise ValueError(f"source is one of {', '.join(SOURCES)}, got {source!r}.")
    label = problem.batch_norm_name
    with problem.prepared():
        examples = examples_in(problem.first_batch()[0])
        if examples < 2:
            raise ValueError(f"gradient_correlation compares examples, and the first batch has {examples}.")
        heard = _own_gradients(problem, at, source) if label == "own" else _gradients(problem, at, source)
    rows = []
    for where, gradient in sorted(heard, key=lambda pair: (pair[0].depth, pair[0].call)):
        rows += _rows(where._replace(depth=where.depth + 1), gradient, examples)
    return pd.DataFrame(rows).assign(source=source, batch_norm=label)[_COLUMNS]


_INPUT = Heard("input", -1, 0)
_COLUMNS = [
    *("source", "batch_norm", "quantity", "unit", "site", "depth", "call"),
    *("value", "low", "high", "n", "n_zero", "status", "reason"),
]


def _gradients(problem: Problem, at: Any, source: str) -> list[tuple[Heard, Tensor]]:
    heard: list[tuple[Heard, Tensor]] = []
    inputs, targets = problem.first_batch()
    with (
        torch.enable_grad(),
        source_of(problem.model, inputs) as (placed, sources),
        on_gradient(sites(problem.model, at), lambda where, g: heard.append((where, g))),
    ):
        total = _values(problem, placed, targets, source).sum()
        wanted = sources() or list(problem.parameters.values())
        if not wanted or not total.requires_grad:
            raise ValueError("The output does not depend on the input in a way autograd can see.")
        gradient = torch.autograd.grad(total, wanted, allow_unused=True)[0]
    if sources() and gradient is not None:
        heard.append((_INPUT, gradient))
    if not heard:
        raise ValueError("No site heard a gradient: the output does not depend on any of them.")
    return heard


def _own_gradients(problem: Problem, at: Any, source: str) -> list[tuple[Heard, Tensor]]:
    """One backward pass for each example: exact where batch statistics are differentiated through."""
    collected: dict[Heard, list[Tensor]] = {}
    unlike: dict[Heard, Tensor] = {}
    inputs, targets = problem.first_batch()
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ValueError("batch_norm='own' needs inputs that are one floating-point tensor. Use 'frozen'.")
    example = 0

    def keep(where: Heard, gradient: Tensor) -> None:
        if len(gradient) == len(inputs):
            collected.setdefault(where, []).append(gradient[example].clone())
        else:
            unlike[where] = gradient

    with (
        torch.enable_grad(),
        source_of(problem.model, inputs) as (placed, sources),
        on_gradient(sites(problem.model, at), keep),
    ):
        values = _values(problem, placed, targets, source)
        for example in range(len(values)):
            keep(_INPUT, torch.autograd.grad(values[example], sources(), retain_graph=True)[0])
    return [*((where, torch.stack(rows)) for where, rows in collected.items()), *unlike.items()]


def _values(problem: Problem, inputs: Any, targets: Tensor | None, source: str) -> Tensor:
    if source == "loss":
        return problem.losses(inputs, targets)
    output = problem.outputs(inputs)
    return output.reshape(len(output), -1).sum(dim=1)


def _rows(where: Heard, gradient: Tensor, examples: int) -> list[dict[str, Any]]:
    unlike = gradient.ndim == 0 or len(gradient) != examples
    gradient = gradient.new_zeros(0, 1) if unlike else gradient.reshape(examples, -1)
    finite = bool(torch.isfinite(gradient).all())
    kept = gradient[gradient.abs().amax(dim=1) > 0] if finite else gradient
    shared = {
        "unit": "1",
        "site": where.site,
        "depth": where.depth,
        "call": where.call,
        "n": len(kept),
        "n_zero": len(gradient) - len(kept),
        "status": "ok",
        "reason": "",
    }
    if unlike or not finite or len(kept) < 2:
        reason = (
            f"{len(kept)} examples have a non-zero gradient" if finite else "a gradient is infinite or NaN"
        )
        if unlike:
            reason = "the first dimension of the output does not count the examples"
        unread = {"value": math.nan, "low": math.nan, "high": math.nan, "reason": reason}
        unread["status"] = "skipped" if unlike else "undefined"
        return [shared | {"quantity": quantity} | unread for quantity in ("correlation_R", "mean_cosine")]
    value, low, high = correlation_R_interval(gradient)
    cosine = float(mean_cosine(kept))
    return [
        shared | {"quantity": "correlation_R", "value": value, "low": low, "high": high},
        shared | {"quantity": "mean_cosine", "value": cosine, "low": math.nan, "high": math.nan},
    ]
