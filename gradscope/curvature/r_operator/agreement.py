"""Do the rules give what double backward gives? Asked once, of a few examples."""

from typing import Any

import torch
from torch import Tensor, nn

from gradscope.curvature.gradient_graph import GradientGraph
from gradscope.curvature.r_operator.ruled_graph import RuledGraph
from gradscope.problem import Problem

EXAMPLES = 8
"""So few cost next to nothing, and the graph of a batch has the same nodes."""


def disagreement(loss: Tensor, parameters: list[nn.Parameter]) -> str | None:
    """What is wrong with the rules on this loss, in words, or None; its graph is left as it is.

    What neither can multiply with (infinite or undefined numbers) is left to whoever looks at the results.

    Raises:
        NoRule: Some node has no rule.
        ValueError: Some node has no second derivative in torch.
    """
    if not loss.requires_grad:
        return None
    ruled = RuledGraph(loss, parameters, keep_graph=True)
    taped = GradientGraph(loss, parameters)
    size = sum(parameter.numel() for parameter in parameters)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    vector = vector.to(parameters[0].device, parameters[0].dtype)
    by_rules, by_taping = torch.zeros_like(vector), torch.zeros_like(vector)
    ruled.add_product(vector, by_rules, last=True)
    taped.add_product(vector, by_taping)
    if not by_taping.isfinite().all():
        return None
    length = torch.linalg.vector_norm(by_taping)
    difference = torch.linalg.vector_norm(by_rules - by_taping)
    tolerance = 1e-9 if vector.dtype == torch.float64 else 1e-4
    if difference <= tolerance * length:
        return None
    return f"a product by rules differs from one by double backward by {(difference / length).item():.2g} of its length"


def loss_of_few(problem: Problem, inputs: Any, targets: Tensor | None) -> Tensor | None:
    """The loss of a batch's first examples; None where the batch has no more, or cannot be cut."""
    if not isinstance(inputs, Tensor) or targets is None or len(inputs) <= EXAMPLES:
        return None
    try:
        return problem.value(inputs[:EXAMPLES], targets[:EXAMPLES])
    except Exception:
        # A user's network or loss may insist on the size of its batches, in any words.
        return None
