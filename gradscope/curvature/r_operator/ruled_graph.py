"""Products with the Hessian of one batch's loss by rules, without taping anything."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from gradscope.curvature.gradient_graph import flat, split
from gradscope.curvature.r_operator.layouts import settle_layouts
from gradscope.curvature.r_operator.plan import Plan
from gradscope.curvature.r_operator.reading import Step, read
from gradscope.curvature.r_operator.rule import NoRule, Rule


class RuledGraph:
    """One batch's loss, ready for products with vectors; the interface is that of `GradientGraph`.

    Reading the graph costs one gradient. After it the graph of the loss is freed, and what is kept is what rules need:
    what layers took in, and the cotangents of what they made.

    Args:
        loss: Scalar.
        parameters: Leaves to differentiate with respect to.

    Attributes:
        bytes: Memory kept between products, parameters not counted.

    Raises:
        NoRule: Some node of the graph has no rule; nothing has been freed then. Or a rule cannot be prepared, which
            shows only after the backward pass.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self.loss = loss.detach()
        self.parameters = list(parameters)
        self.gradients: Sequence[Tensor | None] = [None] * len(self.parameters)
        self.bytes = 0
        self._plan: Plan | None = None
        if not loss.requires_grad:
            return
        reading = read(loss, self.parameters)
        rules = [step.rule for step in reading.steps]
        self.gradients = _cotangents(loss, self.parameters, reading.steps)
        with torch.no_grad(), torch._C.DisableTorchFunction():
            settle_layouts(rules)
            for rule in rules:
                _settle(rule)
            self._plan = Plan(reading)
        self.bytes = self._bytes()

    def gradient(self) -> Tensor:
        """The gradient as one vector, [P]."""
        return flat(self.gradients, self.parameters).detach()

    def add_product(self, vector: Tensor, total: Tensor, *, last: bool = False) -> None:
        """Add Hessian times `vector` to `total`, both of shape [P]; the `last` product frees what is kept."""
        if self._plan is None:
            return
        # Unseen by function modes, which would slow each of many small calls.
        with torch.no_grad(), torch._C.DisableTorchFunction():
            self._plan.add_product(split(vector, self.parameters), split(total, self.parameters))
        if last:
            self._plan = None

    def _bytes(self) -> int:
        if self._plan is None:
            return 0
        seen = {parameter.untyped_storage().data_ptr() for parameter in self.parameters}
        kept = [tensor for step in self._plan.steps for tensor in step.rule.saved.values()]
        kept += [gradient for gradient in self.gradients if gradient is not None]
        total = 0
        for tensor in kept:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        return total


def _settle(rule: Rule) -> None:
    try:
        rule.settle()
    except RuntimeError as error:
        raise NoRule(f"{type(rule).__name__} cannot be prepared: {str(error).splitlines()[0]}") from error


def _cotangents(loss: Tensor, parameters: Sequence[Tensor], steps: Sequence[Step]) -> Sequence[Tensor | None]:
    """One ordinary backward pass, which leaves cotangents with the rules that want them."""

    def listen(step: Step) -> Callable[[Any], None]:
        def hear(cotangents: Sequence[Tensor | None]) -> None:
            if cotangents[0] is not None:
                step.rule.saved["cotangent"] = cotangents[0]

        return hear

    handles = [step.node.register_prehook(listen(step)) for step in steps if step.rule.bends]
    try:
        return grad(loss, list(parameters), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        for step in steps:
            # Only maps whose transpose is their node hold on to it.
            step.node = None
