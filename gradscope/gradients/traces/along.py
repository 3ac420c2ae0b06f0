"""The gradient of a network's output in its input, at given points."""

from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.problem import Problem


def gradients_at(
    problem: Problem,
    points: Tensor,
    *,
    target: Tensor | None = None,
    source: ExampleSource = "output",
    block_size: int | None = None,
) -> Tensor:
    """The whole input gradient of one number of each point, by one backward pass a block.

    Args:
        problem: Network, batch normalisation and, where the source needs one, the loss. With batch statistics
            (`frozen`, `train`) they are those of the points themselves.
        points: [M, ...], placed in the model's dtype and on its device.
        target: The target of every point, a tensor without a dimension for examples, for `source` `logit` or `loss`.
        source: As in `example_values`.
        block_size: Points a pass; None for all. The points of a block see each other only.

    Returns:
        Of the shape of `points`, in the model's dtype, detached.

    Raises:
        ValueError: Points that are no floating-point tensor; blocks under batch statistics; as `example_values`.
    """
    if not isinstance(points, Tensor) or not points.is_floating_point():
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"Input gradients need inputs that are one floating-point tensor, got {kind}.")
    name = problem.batch_norm_name
    if block_size is not None and name not in ("none", "running"):
        raise ValueError(
            f"block_size={block_size} would give every block batch statistics of its own (batch_norm is {name!r}). "
            "Leave it out, or use batch_norm='running'."
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size is at least 1, got {block_size}.")
    found = []
    with problem.prepared(), torch.enable_grad():
        for block in points.detach().split(block_size or len(points)):
            inputs = block.to(problem.device, problem.dtype).requires_grad_()
            found.append(_gradient(problem, inputs, target, source))
    return torch.cat(found)


def _gradient(problem: Problem, inputs: Tensor, target: Tensor | None, source: ExampleSource) -> Tensor:
    targets: Any = None
    if target is not None:
        targets = target.to(problem.device).expand(len(inputs), *target.shape)
    values = example_values(problem, inputs, targets, source)
    if not values.requires_grad:
        raise ValueError("The output does not depend on the input in a way autograd can see.")
    (gradient,) = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
    if gradient is None:
        raise ValueError("The output does not depend on the input in a way autograd can see.")
    return gradient.detach()
