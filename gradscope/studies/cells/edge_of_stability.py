"""Cell of the stability analysis: the top eigenvalue of a small network under full-batch gradient descent.

Cohen et al. (2021), Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, arXiv:2103.00065:
fully-connected tanh networks, square loss, all examples in every step.
"""

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.hessian import hessian
from gradscope.data import digits
from gradscope.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES, WIDTH = 200, 32


def trajectory(learning_rate: float, steps: int, every: int, seed: int) -> "pd.DataFrame":
    """Rows by `step`: `loss`, `lambda_max`, and `learning_rate_product`, learning rate times lambda_max.

    Eigenvalues by Lanczos to one per cent, with their residual bounds.
    """
    import pandas as pd

    model, inputs, targets = specimen(seed)
    problem = Problem(model, (inputs, targets), "half_squared_error")
    weights = list(model.parameters())
    frames = []
    for step in range(steps + 1):
        value = problem.value(inputs, targets)
        if step % every == 0:
            with hessian(problem, check="none") as operator:
                top = extreme_eigenvalues(operator, 1, ends="largest", tolerance=1e-2)
            top = top[["unit", "value", "low", "high", "status", "reason"]]
            product = top.assign(quantity="learning_rate_product", unit="1")
            product[["value", "low", "high"]] *= learning_rate
            loss = {
                "quantity": "loss",
                "unit": "loss",
                "value": float(value.detach()),
                "status": "ok",
                "reason": "",
            }
            rows = [pd.DataFrame([loss]), top.assign(quantity="lambda_max"), product]
            frames.append(pd.concat(rows, ignore_index=True).assign(step=step))
        gradients = torch.autograd.grad(value, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=learning_rate)
    frame = pd.concat(frames, ignore_index=True)
    return frame[["step", "quantity", "unit", "value", "low", "high", "status", "reason"]]


def specimen(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A tanh network of two hidden layers of 32 units, and 200 standardised digits with one-hot targets."""
    data = digits()
    images = torch.cat([data.train[0], data.test[0]]).flatten(start_dim=1)
    labels = torch.cat([data.train[1], data.test[1]])
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
    inputs = images[chosen] - images[chosen].mean(dim=0)
    inputs = inputs / inputs.std()
    targets = nn.functional.one_hot(labels[chosen], data.classes).to(inputs.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [inputs.shape[1], WIDTH, WIDTH, data.classes]
        layers = [
            layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.Tanh())
        ]
    return nn.Sequential(*layers[:-1]), inputs, targets
