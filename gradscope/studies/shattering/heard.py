"""The gradients of single examples at the input and at every layer's output, in one backward pass."""

from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.instruments.junctions.source import source_of
from gradscope.instruments.listen import Heard, on_gradient
from gradscope.instruments.sites import sites
from gradscope.problem import Problem

INPUT = Heard("input", -1, 0)
Gradients = list[tuple[Heard, Tensor]]


def example_gradients(problem: Problem, at: Any, source: ExampleSource, own: bool) -> Gradients:
    """What is heard at the input (depth -1) and at the sites, in order of running; call inside `prepared`.

    Args:
        problem: Its first batch is used.
        at: Sites.
        source: What is differentiated for each example.
        own: One backward pass for each example: exact where batch statistics are differentiated through.

    Raises:
        ValueError: No site heard a gradient, or the output does not hang on the input.
    """
    heard = _own_gradients(problem, at, source) if own else _gradients(problem, at, source)
    return sorted(heard, key=lambda pair: (pair[0].depth, pair[0].call))


def _gradients(problem: Problem, at: Any, source: ExampleSource) -> Gradients:
    heard: Gradients = []
    inputs, targets = problem.first_batch()
    with (
        torch.enable_grad(),
        source_of(problem.model, inputs) as (placed, sources),
        on_gradient(sites(problem.model, at), lambda where, g: heard.append((where, g))),
    ):
        total = example_values(problem, placed, targets, source).sum()
        wanted = sources() or list(problem.parameters.values())
        if not wanted or not total.requires_grad:
            raise ValueError("The output does not depend on the input in a way autograd can see.")
        gradient = torch.autograd.grad(total, wanted, allow_unused=True)[0]
    if sources() and gradient is not None:
        heard.append((INPUT, gradient))
    if not heard:
        raise ValueError("No site heard a gradient: the output does not depend on any of them.")
    return heard


def _own_gradients(problem: Problem, at: Any, source: ExampleSource) -> Gradients:
    collected: dict[Heard, list[Tensor]] = {}
    unlike: dict[Heard, Tensor] = {}
    inputs, targets = problem.first_batch()
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ValueError("batch_norm='own' needs inputs that are one floating-point tensor. Use 'frozen'.")
    example = 0

    def keep(where: Heard, gradient: Tensor) -> None:
        if gradient.ndim and len(gradient) == len(inputs):
            collected.setdefault(where, []).append(gradient[example].clone())
        else:
            unlike[where] = gradient

    with (
        torch.enable_grad(),
        source_of(problem.model, inputs) as (placed, sources),
        on_gradient(sites(problem.model, at), keep),
    ):
        values = example_values(problem, placed, targets, source)
        for example in range(len(values)):
            keep(INPUT, torch.autograd.grad(values[example], sources(), retain_graph=True)[0])
    return [*((where, torch.stack(rows)) for where, rows in collected.items()), *unlike.items()]
