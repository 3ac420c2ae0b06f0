"""Do gradients shatter in this network, and where?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.instruments.listen import Heard, on_gradient
from gradscope.instruments.sites import sites
from gradscope.measures.correlation import correlation_R_interval, mean_cosine
from gradscope.problem import Problem, as_problem

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
        `batch_norm` (the meaning in force), `quantity`, `unit`, `site` (`input` first), `depth` (order of
        running, input 0), `call`, `value`, `low`, `high`, `n` (examples with a non-zero gradient), `n_zero`,
        `status`, `reason`.

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
        heard = _own_gradients(problem, at, source) if label == "own" else _gradients(problem, at, source)
    _check_examples(heard)
    rows = []
    for where, gradient in sorted(heard, key=lambda pair: (pair[0].depth, pair[0].call)):
        rows += _rows(where, gradient.flatten(start_dim=1))
    return pd.DataFrame(rows).assign(source=source, batch_norm=label)[_COLUMNS]


_COLUMNS = [
    *("source", "batch_norm", "quantity", "unit", "site", "depth", "call"),
    *("value", "low", "high", "n", "n_zero", "status", "reason"),
]


def _gradients(problem: Problem, at: Any, source: str) -> list[tuple[Heard, Tensor]]:
    heard: list[tuple[Heard, Tensor]] = []
    inputs, targets = problem.first_batch()
    floating = isinstance(inputs, Tensor) and inputs.is_floating_point()
    if floating:
        inputs = inputs.detach().requires_grad_()
    with torch.enable_grad(), on_gradient(sites(problem.model, at), lambda where, g: heard.append((where, g))):
        total = _scalar(problem, inputs, targets, source)
        wanted = [inputs] if floating else [p for p in problem.model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(total, wanted, allow_unused=True)
    shifted = [(where._replace(depth=where.depth + 1), gradient) for where, gradient in heard]
    if floating and gradients[0] is not None:
        shifted.append((Heard("input", 0, 0), gradients[0]))
    if not shifted:
        raise ValueError("No site heard a gradient: the output does not depend on them in a way autograd can see.")
    return shifted


def _check_examples(heard: list[tuple[Heard, Tensor]]) -> None:
    first = len(heard[-1][1])
    odd = next((where.site for where, gradient in heard if len(gradient) != first), None)
    if first < 2 or odd is not None:
        at_fault = f"site {odd} has another first dimension" if odd else f"the batch has {first}"
        raise ValueError(f"gradient_correlation compares examples along the first dimension: {at_fault}.")


def _own_gradients(problem: Problem, at: Any, source: str) -> list[tuple[Heard, Tensor]]:
    """One backward pass for each example: exact where batch statistics are differentiated through."""
    collected: dict[Heard, list[Tensor]] = {}
    inputs, targets = problem.first_batch()
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ValueError("batch_norm='own' needs inputs that are one floating-point tensor. Use 'frozen'.")
    inputs = inputs.detach().requires_grad_()
    example = 0

    def keep(where: Heard, gradient: Tensor) -> None:
        collected.setdefault(where, []).append(gradient[example].clone())

    with torch.enable_grad(), on_gradient(sites(problem.model, at), keep):
        values = _values(problem, inputs, targets, source)
        for example in range(len(values)):
            gradient = torch.autograd.grad(values[example], inputs, retain_graph=True)[0]
            collected.setdefault(Heard("input", -1, 0), []).append(gradient[example])
    return [(where._replace(depth=where.depth + 1), torch.stack(rows)) for where, rows in collected.items()]


def _values(problem: Problem, inputs: Any, targets: Tensor | None, source: str) -> Tensor:
    if source == "loss":
        return problem.losses(inputs, targets)
    return problem.outputs(inputs).flatten(start_dim=1).sum(dim=1)


def _scalar(problem: Problem, inputs: Any, targets: Tensor | None, source: str) -> Tensor:
    return _values(problem, inputs, targets, source).sum()


def _rows(where: Heard, gradient: Tensor) -> list[dict[str, Any]]:
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
    undefined = {"value": math.nan, "low": math.nan, "high": math.nan, "status": "undefined"}
    if not finite or len(kept) < 2:
        reason = "a gradient is infinite or NaN" if not finite else f"{len(kept)} examples have a non-zero gradient"
        return [shared | {"quantity": q} | undefined | {"reason": reason} for q in ("correlation_R", "mean_cosine")]
    value, low, high = correlation_R_interval(gradient)
    cosine = float(mean_cosine(kept))
    return [
        shared | {"quantity": "correlation_R", "value": value, "low": low, "high": high},
        shared | {"quantity": "mean_cosine", "value": cosine, "low": math.nan, "high": math.nan},
    ]
