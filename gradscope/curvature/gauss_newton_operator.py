"""Products with the Gauss-Newton matrix, batch by batch."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import grad

from gradscope.curvature.differences import shifted
from gradscope.curvature.gradient_graph import exact_derivatives, flat
from gradscope.curvature.jacobian_operator import JacobianOperator, Share
from gradscope.curvature.missing_derivatives import second_derivative_errors
from gradscope.problem import LOSSES


class GaussNewtonOperator(JacobianOperator):
    """J^T H_l J, J the Jacobian of the outputs, H_l the Hessian of the loss by them; made by `gauss_newton`.

    Parts, blocks and couplings: see `ProblemOperator`.
    """

    title: ClassVar[str] = "Gauss-Newton matrix"

    def share(self, inputs: Any, targets: Tensor | None) -> Share:
        outputs = self.problem.outputs(inputs)
        loss, slope, middle = self._at_outputs(outputs.detach(), inputs, targets)
        return Share(loss, outputs, slope, middle)

    def by_differences(self, vector: Tensor, step: float) -> Tensor:
        total = torch.zeros_like(vector)
        parameters = list(self.parameters.values())
        with exact_derivatives(self.device), self.prepared():
            for inputs, targets in self.problem.batches():
                ends = []
                for signed in (step, -step):
                    with shifted(self.parameters, signed * vector), torch.no_grad():
                        # They may be a parameter itself, which is about to be moved.
                        ends.append(self.problem.outputs(inputs).clone())
                outputs = self.problem.outputs(inputs)
                change = (ends[0] - ends[1]) / 2
                slopes = [
                    self._at_outputs(outputs.detach() + signed, inputs, targets)[1]
                    for signed in (change, -change)
                ]
                weights = (slopes[0] - slopes[1]) / (2 * step)
                if outputs.requires_grad:
                    total += flat(grad(outputs, parameters, weights, allow_unused=True), parameters)
        return total

    def _at_outputs(
        self, outputs: Tensor, inputs: Any, targets: Tensor | None
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """The batch's share of the loss, its derivative by the outputs, and products with its Hessian by them."""
        outputs.requires_grad_(True)
        value = _with_outputs(self.problem, outputs).value(inputs, targets)
        if not value.requires_grad:
            return value, torch.zeros_like(outputs), torch.zeros_like
        weight = 1 / self.problem.examples if self.problem.reduction == "mean" else 1.0
        form = next((f for loss, f in _CLOSED_FORMS if loss is self.problem.loss), None)
        with second_derivative_errors():
            (slope,) = grad(value, outputs, create_graph=form is None)
        if form is not None and targets is not None:
            return value, slope, form(outputs.detach(), targets, weight)
        return value, slope.detach(), partial(_second_derivative, slope, outputs)


def _softmax_cross_entropy(outputs: Tensor, targets: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
    """m (diag(p) - p p^T) times the change, for each example; m is what its targets sum to."""
    probabilities = outputs.softmax(dim=1)
    if targets.is_floating_point():
        mass = targets.detach().sum(dim=1, keepdim=True)
    else:
        mass = (targets != IGNORED).to(outputs.dtype)[:, None]

    def multiply(change: Tensor) -> Tensor:
        weighted = probabilities * change
        return weight * mass * (weighted - probabilities * weighted.sum(dim=1, keepdim=True))

    return multiply


def _half_squared_error(outputs: Tensor, targets: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
    return lambda change: weight * change


IGNORED = -100
"""The class index whose examples torch's cross-entropy leaves out."""

_CLOSED_FORMS = [
    (LOSSES["cross_entropy"], _softmax_cross_entropy),
    (LOSSES["half_squared_error"], _half_squared_error),
]
"""For these losses, given outputs, targets and a weight: products with the weighted H_l."""


def _second_derivative(slope: Tensor, outputs: Tensor, change: Tensor) -> Tensor:
    """H_l times a change of the outputs, by differentiating the loss twice."""
    if not slope.requires_grad:
        return torch.zeros_like(change)
    with second_derivative_errors():
        (product,) = grad(
            slope, outputs, change, retain_graph=True, materialize_grads=True, allow_unused=True
        )
    return product


def _with_outputs(problem: Any, outputs: Tensor) -> Any:
    """The problem, of a network that returns these outputs whatever it is given."""
    fixed = copy.copy(problem)
    fixed.forward = lambda model, inputs: outputs
    return fixed
