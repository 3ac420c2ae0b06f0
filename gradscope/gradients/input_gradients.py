"""The gradient of each example's number at that example's input, in one backward pass."""

import torch
from torch import Tensor

from gradscope.gradients.example_values import ExampleSource, example_values
from gradscope.problem import Problem


def input_gradients(problem: Problem, source: ExampleSource = "output") -> Tensor:
    """d(value of an example)/d(its input) for the examples of the first batch: shape and dtype of the inputs.

    With batch statistics differentiated through (`batch_norm="train"`) it is the gradient of the sum over examples,
    which mixes them.

    Args:
        problem: With inputs that are one floating-point tensor.
        source: As in `example_values`.

    Raises:
        ValueError: Inputs of another kind, or values that do not hang on them.
    """
    with problem.prepared():
        inputs, targets = problem.first_batch()
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise ValueError("input_gradients needs inputs that are one floating-point tensor.")
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad():
            values = example_values(problem, leaf.clone(), targets, source)
            if not values.requires_grad:
                raise ValueError("The output does not depend on the input in a way autograd can see.")
            gradient: Tensor = torch.autograd.grad(values.sum(), leaf)[0]
    return gradient
