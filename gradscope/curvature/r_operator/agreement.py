"""Do the rules give what double backward gives? Asked once, of a few examples."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.curvature.gradient_graph import GradientGraph, drawn
from gradscope.curvature.missing_derivatives import normalises_with_bias_alone
from gradscope.curvature.r_operator.reading import read
from gradscope.curvature.r_operator.rule import NoRule
from gradscope.curvature.r_operator.ruled_graph import RuledGraph
from gradscope.problem import Problem, examples_in

FEWEST, MOST = 4, 8
"""How many examples are compared, an eighth of a batch within these: the graph of so few has the same nodes."""


def compared(loss: Tensor, parameters: list[nn.Parameter]) -> RuledGraph:
    """The graph of a loss with rules, after a product of it agreed with one by double backward.

    What neither can multiply with (infinite or undefined numbers) is left to whoever looks at the results. The graph of
    the loss is freed.

    Raises:
        NoRule: Some node has no rule, or products differ.
        ValueError: Some node has no second derivative in torch.
    """
    # Double backward itself is known to be wrong through some normalisations.
    if not loss.requires_grad or normalises_with_bias_alone(loss):
        return RuledGraph(loss, parameters)
    read(loss, parameters)
    size = sum(parameter.numel() for parameter in parameters)
    vector = drawn(size, parameters[0], torch.Generator().manual_seed(2))
    taped = GradientGraph(loss, parameters)
    by_taping = torch.zeros_like(vector)
    taped.add_product(vector, by_taping)
    del taped
    length, finite = torch.linalg.vector_norm(by_taping), bool(by_taping.isfinite().all())
    ruled = RuledGraph(loss, parameters)
    difference = by_taping.neg_()
    ruled.add_product(vector, difference)
    error = torch.linalg.vector_norm(difference)
    tolerance = 1e-9 if vector.dtype == torch.float64 else 1e-4
    if finite and not error <= tolerance * length:
        raise NoRule(
            f"a product by rules differs from one by double backward by {(error / length).item():.2g} of its length"
        )
    return ruled


def few_of(inputs: Any, targets: Tensor | None) -> tuple[Any, Tensor] | None:
    """A batch's first examples, inputs and targets; None where it has hardly more, or cannot be cut."""
    whole = examples_in(inputs) if isinstance(inputs, Tensor | Mapping) else 0
    few = min(max(FEWEST, whole // 8), MOST)
    return None if targets is None or whole < 2 * few else (_first(inputs, few, whole), targets[:few])


def loss_of_few(problem: Problem, inputs: Any, targets: Tensor | None) -> Tensor | None:
    """The loss of `few_of` a batch; None where it cannot be computed."""
    few = few_of(inputs, targets)
    if few is None:
        return None
    try:
        return problem.value(*few)
    except Exception:
        # A user's network or loss may insist on the size of its batches, in any words.
        return None


def _first(inputs: Any, few: int, whole: int) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _first(value, few, whole) for key, value in inputs.items()}
    cut = isinstance(inputs, Tensor) and inputs.ndim > 0 and len(inputs) == whole
    return inputs[:few] if cut else inputs
