"""Products with a Jacobian and its transpose, on one kept graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import grad

from gradscope.curvature.gradient_graph import flat, split
from gradscope.curvature.missing_derivatives import refuse_bias_alone, second_derivative_errors


class JacobianGraph:
    """One batch's share J^T M J of an operator, J the Jacobian of some values by the parameters.

    J v is the derivative of <J^T u, v> by u, at any u: a second backward pass through the graph of the
    first. It needs what second derivatives need, runs wherever products with the Hessian do, and
    unlike forward-mode routes is right through normalisation layers. J^T w is one backward pass. By
    arithmetic that is 4/3 of a gradient, and 2 in convolutions, whose second derivative torch computes whole.

    Args:
        loss: The batch's share of the loss, a scalar.
        values: What J is the Jacobian of, any shape, with their graph.
        slope: The derivative of the loss by the values, of their shape.
        middle: M as a function, linear: from a tensor of the values' shape to another.
        parameters: What J is by.

    Source:
        Double backward for Jacobian-vector products: Townsend (2017), "A new trick for calculating Jacobian
        vector products". The order J, M, J^T: Schraudolph (2002), Fast curvature matrix-vector products.
    """

    def __init__(
        self,
        loss: Tensor,
        values: Tensor,
        slope: Tensor,
        middle: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor],
    ) -> None:
        self.loss = loss.detach()
        self.values = values
        self.slope = slope
        self.middle = middle
        self.parameters = list(parameters)
        self.cotangent = torch.zeros_like(values, requires_grad=True)
        self.gradients: Sequence[Tensor | None] = [None] * len(self.parameters)
        if values.requires_grad:
            refuse_bias_alone(values)
            with second_derivative_errors():
                self.gradients = grad(
                    values, self.parameters, self.cotangent, create_graph=True, allow_unused=True
                )

    def gradient(self) -> Tensor:
        """The gradient of the loss as one vector, [P]."""
        return flat(self._transposed(self.slope, last=False), self.parameters)

    def add_product(self, vector: Tensor, total: Tensor, *, last: bool = False) -> None:
        """Add J^T M J times `vector` to `total`, both of shape [P]; the `last` product frees the graph."""
        pushed = self._forward(vector)
        if pushed is None:
            return
        products = self._transposed(self.middle(pushed), last=last)
        for part, product in zip(split(total, self.parameters), products, strict=True):
            if product is not None:
                part.add_(product)

    def _forward(self, vector: Tensor) -> Tensor | None:
        """J times `vector`, of the values' shape; None where they depend on no parameter."""
        pairs = [
            (gradients, part)
            for gradients, part in zip(self.gradients, split(vector, self.parameters), strict=True)
            if gradients is not None and gradients.requires_grad
        ]
        if not pairs:
            return None
        with second_derivative_errors():
            (pushed,) = grad(
                [gradients for gradients, _ in pairs],
                [self.cotangent],
                [part for _, part in pairs],
                retain_graph=True,
                allow_unused=True,
            )
        return pushed

    def _transposed(self, weights: Tensor, *, last: bool) -> Sequence[Tensor | None]:
        if not self.values.requires_grad:
            return [None] * len(self.parameters)
        return grad(self.values, self.parameters, weights, retain_graph=not last, allow_unused=True)
