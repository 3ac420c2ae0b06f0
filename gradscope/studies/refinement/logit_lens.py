"""What a network would answer if it stopped early: its own last part, applied to an earlier state."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.junctions import Junction
from gradscope.instruments.junctions.calls import Plan, additions
from gradscope.problem import Problem

Lens = Callable[[Tensor], Tensor]


def own_lens(problem: Problem, inputs: Any, last: Junction) -> Lens:
    """What the network does after its last junction, as a function of the sum there.

    The sum is put in place of the last junction's skip, and its branch is closed. For a language model
    this is the final normalisation and the unembedding (the logit lens); for a residual network of images,
    within the last stage, pooling and classifier (early exit).

    Args:
        problem: Whose model runs, once for each state, in the mode it is in.
        inputs: The batch the states belong to; only what bypasses the last junction still depends on it.
        last: The junction all ways to the output pass.
    """

    def lens(state: Tensor) -> Tensor:
        plan: Plan = dict.fromkeys(last.branches, torch.zeros_like)
        plan[last.skips[0]] = lambda operand: state
        with torch.no_grad(), additions(problem.model, plan):
            return problem.outputs(inputs)

    return lens


def lens_fits(lens: Lens, state: Tensor, output: Tensor) -> bool:
    """Whether the lens makes of the last sum what the network makes of it, up to rounding."""
    try:
        seen = lens(state)
    except RuntimeError:
        return False
    tolerance = 1e3 * torch.finfo(output.dtype).eps
    return seen.shape == output.shape and torch.allclose(
        seen, output, rtol=tolerance, atol=tolerance, equal_nan=True
    )


def class_hits(logits: Tensor, targets: Any) -> Tensor | None:
    """1 for each example whose likeliest class is the target, else 0: [N]; None without one class an example.

    NaN for an example with a logit that is NaN, which names no class.
    """
    if not isinstance(targets, Tensor) or logits.ndim != 2 or targets.ndim != 1:
        return None
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        return None
    hits = (logits.argmax(dim=1) == targets).double()
    return torch.where(logits.isnan().any(dim=1), torch.nan, hits)


def token_weights(inputs: Any, length: Sequence[int]) -> Tensor | None:
    """Which tokens count, [N, T], from the attention mask of a dict of inputs; None where there is none."""
    mask = inputs.get("attention_mask") if hasattr(inputs, "get") else None
    if isinstance(mask, Tensor) and list(mask.shape) == list(length):
        return mask.double()
    return None
