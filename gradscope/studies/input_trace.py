"""The gradient of a network's output along a line of scalar inputs: is it smooth, or noise?"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradscope.problem import Problem

if TYPE_CHECKING:
    import pandas as pd


def input_gradients(problem: Problem) -> Tensor:
    """d(sum of outputs)/d(input) for each example of the first batch: shape of the inputs."""
    with problem.prepared():
        inputs, _ = problem.first_batch()
        inputs = inputs.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(problem.outputs(inputs).sum(), inputs)[0]


def input_trace(model: nn.Module, inputs: Tensor, *, batch_norm: str = "auto") -> "pd.DataFrame":
    """The derivative of a network of one number along a grid of its inputs.

    Args:
        model: Network from [N, 1] to [N, P]; the P outputs are summed (Definition 1).
        inputs: The grid, [N, 1]; see `data.line`.
        batch_norm: As in `Problem`. `own` is not offered here: statistics are constants or stored.

    Returns:
        Frame with columns `batch_norm`, `quantity` (`input_gradient`), `unit`, `x`, `value`, `status`, `reason`,
        one row a point.

    Raises:
        ValueError: Inputs that are not [N, 1], or batch normalisation in `own` mode.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 1 and equation 1.
    """
    import pandas as pd

    if inputs.ndim != 2 or inputs.shape[1] != 1:
        raise ValueError(f"input_trace follows a line of scalars, shape [N, 1], got {list(inputs.shape)}.")
    if batch_norm == "own":
        raise ValueError("input_trace has no batch_norm='own'. Use 'frozen', 'running' or 'train'.")
    problem = Problem(model, inputs, batch_norm=batch_norm)
    gradient = input_gradients(problem)
    return pd.DataFrame(
        {
            "batch_norm": problem.batch_norm_name,
            "quantity": "input_gradient",
            "unit": "output per input",
            "x": inputs.double().flatten().tolist(),
            "value": gradient.double().flatten().tolist(),
            "status": [
                "ok" if math.isfinite(value) else "undefined" for value in gradient.flatten().tolist()
            ],
            "reason": ["" if math.isfinite(value) else "not finite" for value in gradient.flatten().tolist()],
        }
    )
