"""Mean and scatter of each parameter's gradient over examples, layer by layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gradscope.gradients.example_gradients import example_gradients
from gradscope.gradients.example_values import ExampleSource
from gradscope.instruments.sites import sites
from gradscope.measures.signal_to_noise import SignalToNoise
from gradscope.problem import as_problem


def signal_to_noise(
    problem: Any, *, at: str | Sequence[str] | None = None, source: ExampleSource = "loss"
) -> dict[str, SignalToNoise]:
    """Per-parameter statistics of per-example gradients for every layer, over all batches.

    A Gram does not hold the scatter of single parameters, so every example's own gradient is computed and taken in,
    some at a time (see `example_gradients`): by `vmap`, at 15 times a forward and backward pass of the batch for 64
    examples and a ResNet-20, 50 times for a 20-layer perceptron; where vmap refuses, by a pass for each example alone,
    at about twice that. Where examples mix in the forward pass (batch normalisation
    with the batch's statistics, or any module whose output for an example changes when the others are taken away) each
    costs a backward pass of its whole batch; the gradient is then that of the example's own value, so that `train` and
    `own` are one here. Three numbers in float64 are held for each parameter.

    Args:
        problem: Problem or (model, data), with two examples or more.
        at: Layers, as in `instruments.sites`; None for every module with parameters of its own.
        source: As in `example_values`; gradients are not divided by the number of examples.

    Returns:
        From module name to the statistics of its own parameters, flattened and one after the other; frozen ones count
        too, as in `layer_grams`, and a tied tensor at its first owner only. Layers without any are left out.

    Raises:
        ValueError: Fewer than two examples, an unknown source, or no layer with parameters of its own.

    Source:
        Liu et al. (2020), arXiv:2001.07384.
    """
    problem = as_problem(problem)
    if problem.examples < 2:
        raise ValueError(f"signal_to_noise compares examples, and the data has {problem.examples}.")
    owned = _owned(problem.model, at)
    if not owned:
        raise ValueError("No layer that was asked for has parameters of its own. Choose others with at=.")
    found = {name: SignalToNoise() for name in owned}
    parameters = {name: parameter for own in owned.values() for name, parameter in own.items()}
    with problem.prepared(), torch.enable_grad():
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for inputs, targets in problem.batches():
            for gradients in example_gradients(problem, inputs, targets, source, parameters):
                left = iter(gradients)
                for name, own in owned.items():
                    found[name].add(torch.cat([next(left).flatten(start_dim=1) for _ in own], dim=1))
    return found


def _owned(model: nn.Module, at: Any) -> dict[str, dict[str, nn.Parameter]]:
    """By module name its own floating-point parameters by their names in the network, each tensor once."""
    seen: set[int] = set()
    owned: dict[str, dict[str, nn.Parameter]] = {}
    for site in sites(model, at):
        for name, parameter in site.module.named_parameters(prefix=site.name, recurse=False):
            if id(parameter) not in seen and parameter.is_floating_point():
                seen.add(id(parameter))
                owned.setdefault(site.name, {})[name] = parameter
    return owned
