"""Products with a Jacobian and its transpose by rules, on what a forward pass left behind."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradscope.curvature.gradient_graph import split
from gradscope.curvature.r_operator.layouts import settle_layouts
from gradscope.curvature.r_operator.plan import Plan
from gradscope.curvature.r_operator.reading import read
from gradscope.curvature.r_operator.sums import Sums


class RuledJacobianGraph:
    """One batch's share J^T M J by two passes of the R-operator; the interface is that of `JacobianGraph`.

    Tangents go up with the rules of a Hessian's product, and J^T w comes down with those of cotangents, in
    which nothing bends. Convolutions thus cost four products where double backward, which computes what
    nobody asked for, takes six.

    Args:
        loss: As in `JacobianGraph`, and so are the others.
        values: Their graph is left as it is.
        slope: The derivative of the loss by the values.
        middle: M as a function.
        parameters: What J is by.

    Raises:
        NoRule: Some node of the graph has no rule.
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
        self.slope = slope
        self.middle = middle
        self.parameters = list(parameters)
        self._plan: Plan | None = None
        if not values.requires_grad:
            return
        reading = read(values, self.parameters)
        if not reading.leaves:
            return
        rules = [step.rule for step in reading.steps]
        for step in reading.steps:
            # Only maps whose transpose is their node hold on to it.
            step.node = None
        with torch.no_grad(), torch._C.DisableTorchFunction():
            settle_layouts(rules)
            for rule in rules:
                rule.settle()
            self._plan = Plan(reading)
        self.bytes = self._plan_bytes(self._plan)
        if reading.steps:
            self._place = reading.steps[-1].results[values.output_nr]
        else:
            # The values are a parameter themselves.
            (self._place,) = reading.leaves.values()

    bytes = 0
    """Memory kept between products, parameters not counted."""

    def gradient(self) -> Tensor:
        """The gradient of the loss as one vector, [P]."""
        total = torch.cat([torch.zeros_like(parameter).flatten() for parameter in self.parameters])
        if self._plan is not None:
            self._down(self.slope, total, self._plan)
        return total

    def add_product(self, vector: Tensor, total: Tensor, *, last: bool = False) -> None:
        """Add J^T M J times `vector` to `total`, both of shape [P]; the `last` product frees what is kept."""
        plan = self._plan
        if plan is None:
            return
        with torch.no_grad(), torch._C.DisableTorchFunction():
            pushed = plan._up(split(vector, self.parameters))[self._place]
        if pushed is not None:
            self._down(self.middle(pushed), total, plan)
        if last:
            self._plan = None

    def _plan_bytes(self, plan: Plan) -> int:
        memory = {parameter.untyped_storage().data_ptr(): 0 for parameter in self.parameters}
        for step in plan.steps:
            for tensor in step.rule.saved.values():
                storage = tensor.untyped_storage()
                memory.setdefault(storage.data_ptr(), storage.nbytes())
        return sum(memory.values())

    def _down(self, weights: Tensor, total: Tensor, plan: Plan) -> None:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            sums = Sums(plan.shapes)
            parts = split(total, self.parameters)
            for number, place in plan.leaves.items():
                sums.bind(place, parts[number])
            for place, before, rule in plan.views:
                bound = sums.values[before]
                if bound is not None:
                    sums.bind(place, rule.apply(bound))
            sums.add(self._place, weights, own=False)
            plan._down([None] * len(plan.shapes), sums)
