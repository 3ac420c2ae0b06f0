"""The plain way to what operators know by derivatives of derivatives: one backward pass at shifted parameters."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.curvature.gradient_graph import exact_derivatives, plain_gradient, split

if TYPE_CHECKING:
    from gradscope.curvature.problem_operator import ProblemOperator


def loss_and_gradient(
    operator: "ProblemOperator", visit: Callable[[Tensor], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Loss and gradient, [P], by one ordinary backward pass a batch.

    Random numbers differ from those that `prepared` starts with, so that a network which draws some shows it.

    Args:
        operator: Whose problem, and by whose parameters.
        visit: Called with each batch's share of the loss, whose graph is alive.
    """
    loss = torch.zeros((), dtype=torch.float64, device=operator.device)
    gradient = torch.zeros(operator.shape[0], dtype=operator.dtype, device=operator.device)
    with exact_derivatives(operator.device), operator.prepared():
        torch.rand(1, device=operator.device)
        torch.rand(1)
        for inputs, targets in operator.problem.batches():
            value = operator.problem.value(inputs, targets)
            loss += value.detach()
            if visit is not None:
                visit(value)
            gradient += plain_gradient(value, list(operator.parameters.values()))
    return loss, gradient


@contextmanager
def shifted(parameters: Mapping[str, nn.Parameter], shift: Tensor) -> Iterator[None]:
    """Parameters moved along a vector, [P], for a while; values are put back bit by bit.

    Args:
        parameters: Those moved, in the order of the vector's entries.
        shift: What is added to them.
    """
    before = [parameter.detach().clone() for parameter in parameters.values()]
    parts = split(shift, list(parameters.values()))
    try:
        with torch.no_grad():
            for parameter, part in zip(parameters.values(), parts, strict=True):
                parameter.add_(part)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters.values(), before, strict=True):
                parameter.copy_(value)


def own_functions(value: Tensor) -> list[str]:
    """Names of the custom autograd functions, others than torch brings along, in the graph of a value."""
    waiting: list[Any] = [value.grad_fn]
    seen: set[Any] = set(waiting)
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            function = getattr(node, "_forward_cls", type(node))
            if function.__module__.partition(".")[0] != "torch":
                found.add(function.__name__)
        new = [operand for operand, _ in node.next_functions if operand not in seen]
        seen.update(new)
        waiting.extend(new)
    return sorted(found)
