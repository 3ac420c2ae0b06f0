"""Hessian and gradient of a problem by plain autograd, entry by entry: the reference of the studies of curvature."""

import torch
from torch import Tensor
from torch.autograd import grad

from gradscope.problem import Problem


def loss_of(problem: Problem) -> Tensor:
    """The loss over all batches, as the model is, in eval mode."""
    return sum(problem.value(inputs, targets) for inputs, targets in problem.batches())


def dense_gradient(problem: Problem) -> Tensor:
    """[P], all trainable parameters in the model's order."""
    with problem.prepared():
        slopes = grad(loss_of(problem), list(problem.parameters.values()), materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


def dense_hessian(problem: Problem) -> Tensor:
    """[P, P], row by row."""
    parameters = list(problem.parameters.values())
    with problem.prepared():
        first = grad(loss_of(problem), parameters, create_graph=True, materialize_grads=True)
        rows = [
            torch.cat(
                [s.flatten() for s in grad(slope, parameters, retain_graph=True, materialize_grads=True)]
            )
            for slope in torch.cat([g.flatten() for g in first])
        ]
    return torch.stack(rows).detach()


def spectrum(problem: Problem) -> Tensor:
    """All eigenvalues, descending."""
    matrix = dense_hessian(problem)
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0)
