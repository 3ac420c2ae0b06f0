"""One forward pass kept alive, whose gradient can be split by the residual branches it crosses."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradscope.gradients.branches import Chosen
from gradscope.gradients.engines.user_hooks import UserHooks
from gradscope.gradients.result import PathGradients
from gradscope.gradients.sources import Source, source_value
from gradscope.gradients.split import Paths
from gradscope.gradients.targets import located
from gradscope.instruments.junctions import trace
from gradscope.problem import Problem, as_problem

__all__ = ["PathGradients", "Paths", "open_paths"]


@contextmanager
def open_paths(
    problem: Any,
    *,
    precision: torch.dtype | None = None,
    source: Source = "loss",
    at: str = "input",
    junctions: Chosen = None,
) -> Iterator[Paths]:
    """Forward the first batch once and hold its graph; the model is as found afterwards.

    Args:
        problem: Problem or (model, data).
        precision: float64 or float32: measures a copy of the model in that precision. None: the model's own.
        source: What is differentiated, as in `sources.source_value`.
        at: Where: `input`, `parameters` or the dotted path of a module, for the gradient at its output.
        junctions: Which count: junctions of this network, a pattern of their names, or a function of one that says
            whether. None: the outermost that have a skip.

    Raises:
        ValueError: Nothing to count; batch normalisation in `own` mode; a site or source that does not fit; another
            precision.
    """
    problem = as_problem(problem)
    if problem.batch_norm_name == "own":
        raise ValueError(
            "batch_norm='own' takes one backward pass for each example; path lengths are those of the whole batch's "
            "gradient. Use batch_norm='train' (differentiated through) or 'frozen'."
        )
    if precision not in (None, torch.float32, torch.float64):
        raise ValueError(
            f"precision is torch.float32 or torch.float64, got {precision!r}: long paths leave the range of narrower "
            "numbers."
        )
    if precision is not None and precision is not problem.dtype:
        problem = _converted(problem, precision)
    value = source_value(problem, source)
    with problem.prepared(), located(problem.model, problem.parameters, at) as targets:
        inputs, classes = problem.first_batch()
        with UserHooks(problem.model) as hooks:
            found = trace(problem.model, lambda placed: value(placed, classes), inputs)
        yield Paths(found, targets(found.source), at, junctions, hooks)


def _converted(problem: Problem, precision: torch.dtype) -> Problem:
    converted = copy.copy(problem)
    converted.model = copy.deepcopy(problem.model).to(precision)
    return converted
