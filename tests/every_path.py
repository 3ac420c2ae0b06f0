"""All paths of a small network, one by one, with hooks of the tests' own."""

import itertools

import torch
from networks import NETWORKS
from torch import Tensor

from gradscope.instruments.junctions import trace
from gradscope.problem import Problem

EXACT = {"rtol": 1e-11, "atol": 1e-14}


def problem_of(name: str, batch_norm: str = "auto") -> Problem:
    specimen = NETWORKS[name]
    return Problem(specimen.build(), (specimen.inputs(), specimen.targets()), batch_norm=batch_norm)


def every_path(problem: Problem) -> dict[tuple[int, ...], Tensor]:
    """The gradient through each choice of one operand at each addition: 0 for the skip, b for branch b.

    By closing all other operands with hooks on the additions' nodes, in one backward pass for each path.
    """
    with problem.prepared():
        inputs, targets = problem.first_batch()
        found = trace(problem.model, lambda placed: problem.value(placed, targets), inputs)
        level_0 = [place for place, junction in enumerate(found.junctions) if junction.level == 0]
        operands = [[*found.skip_edges[place], *found.branch_edges[place]] for place in level_0]
        gradients = {}
        for path in itertools.product(*(range(len(edges)) for edges in operands)):
            handles = []
            for choice, edges in zip(path, operands, strict=True):
                for place, edge in enumerate(edges):
                    if place != choice:
                        handles.append(edge.node.register_hook(closing(edge.slot)))
            gradients[path] = torch.autograd.grad(found.output, found.source, retain_graph=True)[0]
            for handle in handles:
                handle.remove()
    return gradients


def closing(slot: int):
    def hook(inputs, outputs):
        return tuple(g * 0 if place == slot else g for place, g in enumerate(inputs))

    return hook


def by_length(paths: dict[tuple[int, ...], Tensor]) -> Tensor:
    longest = len(next(iter(paths)))
    sums = [torch.zeros_like(next(iter(paths.values()))) for _ in range(longest + 1)]
    for path, gradient in paths.items():
        sums[sum(choice > 0 for choice in path)] += gradient
    return torch.stack(sums)


def whole_gradient(problem: Problem) -> Tensor:
    with problem.prepared():
        inputs, targets = problem.first_batch()
        if inputs.is_floating_point():
            inputs = inputs.clone().requires_grad_()
            return torch.autograd.grad(problem.value(inputs, targets), inputs)[0]
        kept = []
        handle = problem.model.token.register_forward_hook(lambda m, a, output: kept.append(output))
        value = problem.value(inputs, targets)
        handle.remove()
        return torch.autograd.grad(value, kept)[0]


def summed(output: Tensor, target: Tensor) -> Tensor:
    return (output * output.detach()).sum(dim=1)
