"""The loss of a problem and its gradient as one vector, by one backward pass a batch."""

import torch
from torch import Tensor

from gradscope.curvature.gradient_graph import exact_derivatives, plain_gradient
from gradscope.curvature.selection import Selection, select
from gradscope.problem import Problem


def loss_and_gradient(problem: Problem, parameters: Selection = None) -> tuple[float, dict[str, Tensor]]:
    """The loss over all batches, and its gradient by parameter.

    Args:
        problem: Its `batch_norm` decides which gradient this is.
        parameters: As in `hessian`.

    Returns:
        The loss, and the gradient with respect to each parameter, flat, float64, in the model's order. The model is
        left as found.
    """
    chosen = select(problem.parameters, parameters)
    loss = 0.0
    total: Tensor | None = None
    with exact_derivatives(problem.device), problem.prepared():
        for inputs, targets in problem.batches():
            value = problem.value(inputs, targets)
            loss += value.item()
            gradient = plain_gradient(value, list(chosen.values())).detach().double()
            total = gradient if total is None else total + gradient
    if total is None:
        raise ValueError("The gradient needs at least one batch, and the data handed out none.")
    pieces = torch.split(total, [parameter.numel() for parameter in chosen.values()])
    return loss, dict(zip(chosen, pieces, strict=True))
