"""The empirical neural tangent kernel of every layer: how a step for one example moves another's outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.gathered import copied, gathered
from gradscope.gradients.grams.examples import chosen
from gradscope.gradients.layer_grams import layer_grams
from gradscope.gradients.own_parameters import without_own_parameters
from gradscope.problem import as_problem

ALL = "all parameters"


def tangent_kernels(
    problem: Any,
    *,
    outputs: str | int = "trace",
    at: str | Sequence[str] | None = None,
    block_size: int | None = None,
) -> dict[str, Tensor]:
    """Empirical tangent kernel of every layer's parameters, and of all parameters.

    Theta_ij = sum_k <d f_k(x_i) / d w, d f_k(x_j) / d w>, summed over the K outputs: the trace over outputs of the full
    kernel of B K rows. The kernel of all parameters is the sum of the layers'. No gradient [B, P] is held.

    Args:
        problem: Problem or (model, data), all examples of it. Targets are not needed.
        outputs: `trace` for the sum over all outputs, at the cost of one `layer_grams` each; k for that output alone.
        at: Layers, as in `instruments.sites`; None for every module with parameters of its own.
        block_size: As in `layer_grams`.

    Returns:
        From module name, and last `all parameters`, to the kernel [B, B], in squared outputs per squared parameter;
        float64. A layer without a Gram is left out.

    Raises:
        ValueError: Outputs that are not [B, K], an output that there is not, or no layer with a Gram.

    Source:
        Jacot et al. (2018), arXiv:1806.07572.
    """
    problem = as_problem(problem)
    if missing := without_own_parameters(problem, at):
        raise ValueError(missing)
    problem, largest = gathered(problem)
    block_size = largest if block_size is None else block_size
    with problem.prepared(), torch.no_grad():
        batch = problem.first_batch()
        examples = min(block_size or problem.examples, problem.examples)
        some, _ = chosen(batch, torch.arange(examples), problem.examples)
        shape = problem.outputs(copied(some)).shape
    if len(shape) != 2 or shape[0] != examples:
        raise ValueError(
            f"tangent_kernels needs outputs of shape [{examples}, K], got {list(shape)}. Pass forward=lambda model, "
            "inputs: ... that returns them so."
        )
    numbers = range(shape[1]) if outputs == "trace" else [outputs]
    if any(isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < shape[1] for k in numbers):
        raise ValueError(f"outputs is 'trace' or one of 0 .. {shape[1] - 1}, got {outputs!r}.")
    kernels: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    for k in numbers:
        for name, gram in layer_grams(problem, at=at, source=k, block_size=block_size).items():
            if gram.parameter is not None:
                kernels[name] = kernels[name] + gram.parameter if name in kernels else gram.parameter.clone()
            else:
                reasons[name] = gram.reason
    if not kernels:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"No layer that was asked for has a Gram of parameter gradients. {told}.")
    return kernels | {ALL: torch.stack(list(kernels.values())).sum(dim=0)}
