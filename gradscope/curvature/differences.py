"""The plain way to what operators know by derivatives of derivatives: one backward pass at shifted parameters."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradscope.curvature.gradient_graph import add_gradient, exact_derivatives, split
from gradscope.curvature.missing_derivatives import nodes_behind

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
    parameters = list(operator.parameters.values())
    with exact_derivatives(operator.device), operator.prepared():
        torch.rand(1, device=operator.device)
        torch.rand(1)
        for inputs, targets in operator.problem.batches():
            value = operator.problem.value(inputs, targets)
            loss += value.detach()
            if visit is not None:
                visit(value)
            add_gradient(value, parameters, gradient)
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
    found: set[str] = set()
    for node in nodes_behind(value):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            function = getattr(node, "_forward_cls", type(node))
            if function.__module__.partition(".")[0] != "torch":
                found.add(function.__name__)
    return sorted(found)


def reduced_precision(value: Tensor) -> list[str]:
    """The types of half precision in which parts of the graph of a value are computed."""
    found = {
        str(metadata.dtype)
        for node in nodes_behind(value)
        for metadata in node._input_metadata
        if metadata.dtype in (torch.float16, torch.bfloat16)
    }
    return sorted(found)
