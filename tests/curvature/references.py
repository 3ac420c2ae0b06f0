"""Matrices of second derivatives, formed entry by entry: slow, and plainly right."""

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradscope.problem import Problem


def flattened(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def dense_hessian(problem: Problem) -> Tensor:
    """By twofold torch.autograd.grad, one row at a time."""
    parameters = list(problem.parameters.values())
    with problem.prepared(), sdpa_kernel(SDPBackend.MATH):
        loss = sum(problem.value(inputs, targets) for inputs, targets in problem.batches())
        first = grad(loss, parameters, create_graph=True, materialize_grads=True)
        rows = []
        for slope in flattened(first):
            second = (
                grad(slope, parameters, retain_graph=True, materialize_grads=True)
                if slope.requires_grad
                else tuple(torch.zeros_like(p) for p in parameters)
            )
            rows.append(flattened(second))
    return torch.stack(rows)


def dense_gauss_newton(problem: Problem) -> Tensor:
    """J^T H_l J, the Jacobian one output after the other, the loss's Hessian by torch.autograd.functional."""
    parameters = list(problem.parameters.values())
    size = sum(parameter.numel() for parameter in parameters)
    total = torch.zeros(size, size, dtype=torch.float64)
    with problem.prepared(), sdpa_kernel(SDPBackend.MATH):
        for inputs, targets in problem.batches():
            outputs = problem.outputs(inputs)
            shape = outputs.shape
            jacobian = torch.stack(
                [
                    flattened(grad(entry, parameters, retain_graph=True, materialize_grads=True))
                    for entry in outputs.flatten()
                ]
            )
            middle = torch.autograd.functional.hessian(
                lambda entries, shape=shape, targets=targets: problem.loss(
                    entries.view(shape), targets
                ).sum(),
                outputs.detach().flatten(),
            )
            total += jacobian.T @ middle @ jacobian
    return total / problem.examples if problem.reduction == "mean" else total


def dense_fisher(problem: Problem) -> Tensor:
    """The sum of outer products of examples' gradients, one example after the other."""
    parameters = list(problem.parameters.values())
    size = sum(parameter.numel() for parameter in parameters)
    total = torch.zeros(size, size, dtype=torch.float64)
    with problem.prepared(), sdpa_kernel(SDPBackend.MATH):
        for inputs, targets in problem.batches():
            for loss in problem.losses(inputs, targets):
                row = flattened(grad(loss, parameters, retain_graph=True, materialize_grads=True))
                total += torch.outer(row, row)
    return total / problem.examples if problem.reduction == "mean" else total


def assert_same_matrix(matrix: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """To a tolerance relative to the largest entry."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(matrix, expected, rtol=0, atol=tolerance * scale)
