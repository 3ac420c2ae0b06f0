"""Products with the empirical Fisher matrix, batch by batch."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import grad

from gradscope.curvature.differences import shifted
from gradscope.curvature.gradient_graph import exact_derivatives, flat
from gradscope.curvature.jacobian_operator import JacobianOperator, Share


class FisherOperator(JacobianOperator):
    """The sum of g_i g_i^T over examples' own gradients, or its mean; made by `empirical_fisher`.

    Parts, blocks and couplings: see `ProblemOperator`.
    """

    title: ClassVar[str] = "empirical Fisher matrix"

    def share(self, inputs: Any, targets: Tensor | None) -> Share:
        losses = self.problem.losses(inputs, targets)
        slope = torch.full_like(losses.detach(), self._weight)
        return Share(losses.sum() * self._weight, losses, slope, self._weighted)

    def by_differences(self, vector: Tensor, step: float) -> Tensor:
        total = torch.zeros_like(vector)
        parameters = list(self.parameters.values())
        with exact_derivatives(self.device), self.prepared():
            for inputs, targets in self.problem.batches():
                ends = []
                for signed in (step, -step):
                    with shifted(self.parameters, signed * vector), torch.no_grad():
                        # They may be a parameter itself, which is about to be moved.
                        ends.append(self.problem.losses(inputs, targets).clone())
                losses = self.problem.losses(inputs, targets)
                weights = self._weighted((ends[0] - ends[1]) / (2 * step))
                if losses.requires_grad:
                    total += flat(grad(losses, parameters, weights, allow_unused=True), parameters)
        return total

    @property
    def _weight(self) -> float:
        return 1 / self.problem.examples if self.problem.reduction == "mean" else 1.0

    def _weighted(self, change: Tensor) -> Tensor:
        return self._weight * change
