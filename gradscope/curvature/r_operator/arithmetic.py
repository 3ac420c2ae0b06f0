"""Rules for sums, products and quotients of tensors that broadcast."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.r_operator.rule import NoRule, Rule, Tangents, present, saved
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node


class Weighted(Rule):
    """A sum of operands, each times a number or a constant tensor."""

    bends = False

    def __init__(self, node: Node, wanted: Sequence[bool], factors: Sequence[Any]) -> None:
        super().__init__(node, wanted)
        self.numbers = list(factors)
        for slot, factor in enumerate(factors):
            if isinstance(factor, Tensor):
                self.saved[str(slot)] = factor

    def _times(self, slot: int, tangent: Tensor) -> Tensor:
        factor = self.saved.get(str(slot), self.numbers[slot])
        return tangent if isinstance(factor, int | float) and factor == 1 else tangent * factor

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        terms = [(slot, tangent) for slot, tangent in enumerate(tangents) if tangent is not None]
        slot, first = terms[0]
        made = self._times(slot, first)
        for slot, tangent in terms[1:]:
            term = self._times(slot, tangent)
            free = spare[0] or made is not first
            made = made.add_(term) if free and made.shape == self.shape else made + term
        return made if made.shape == self.shape else made.expand(self.shape)

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        wanted = [slot for slot in range(len(tangents)) if into.wants(slot)]
        for slot in wanted:
            term = self._times(slot, moving)
            into.add(slot, term, own=term is not moving or (into.spare and len(wanted) == 1))

    def settle(self) -> None:
        self.numbers = [None if isinstance(number, Tensor) else number for number in self.numbers]


class Product(Rule):
    """a b, place by place."""

    def __init__(self, node: Node, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved = present(node, "self", "other")
        # A product with a constant is linear.
        self.bends = all(self.wanted[:2])

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        first, second = tangents
        if second is None:
            made = first * self.saved["other"]
        elif first is None:
            made = second * self.saved["self"]
        else:
            made = first * self.saved["other"] + second * self.saved["self"]
        return made if made.shape == self.shape else made.expand(self.shape)

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        for slot, other in ((0, "other"), (1, "self")):
            if not into.wants(slot):
                continue
            tangent = tangents[1 - slot]
            if moving is not None:
                into.add(slot, moving * self.saved[other])
            if tangent is not None:
                into.add(slot, self.saved["cotangent"] * tangent)


class Quotient(Rule):
    """a / b, place by place."""

    def __init__(self, node: Node, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved = present(node, "self", "other")
        self.bends = len(self.wanted) > 1 and self.wanted[1]

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        first, second = tangents
        above: Any = first
        if second is not None:
            step = second * self._quotient()
            above = -step if above is None else above - step
        made = above / self.saved["other"]
        return made if made.shape == self.shape else made.expand(self.shape)

    def _quotient(self) -> Tensor:
        return self.saved["self"] / self.saved["other"]

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        other, (first, second) = self.saved["other"], tangents
        cotangent: Any = self.saved.get("cotangent")
        if into.wants(0):
            if moving is not None:
                into.add(0, moving / other)
            if second is not None:
                into.add(0, -cotangent * second / other.square())
        if into.wants(1):
            quotient = self._quotient()
            if moving is not None:
                into.add(1, -moving * quotient / other)
            if first is not None:
                into.add(1, -cotangent * first / other.square())
            if second is not None:
                into.add(1, 2 * cotangent * quotient * second / other.square())


Maker = Callable[[Node, Sequence[bool]], Rule]


def _weighted(factors: Callable[[Any], Sequence[Any]]) -> Maker:
    return lambda node, wanted: Weighted(node, wanted, factors(node))


def _condition(node: Any) -> tuple[Tensor, Tensor]:
    condition = _mask(node, "condition")
    return condition, ~condition


def _mask(node: Any, name: str) -> Tensor:
    found = saved(node, name)
    if found is None:
        raise NoRule(f"{node.name()} saved no {name}")
    return found


def _first_if(wins: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any], tuple[Tensor, Tensor]]:
    """Weights of the larger (or smaller) operand; equal ones share."""

    def factors(node: Any) -> tuple[Tensor, Tensor]:
        first, second = _mask(node, "self"), _mask(node, "other")
        ties = (first == second).to(first.dtype) / 2
        return wins(first, second) + ties, wins(second, first) + ties

    return factors


def _masked_fill(node: Any) -> tuple[Tensor, Tensor]:
    mask = _mask(node, "mask")
    return ~mask, mask


ARITHMETIC: dict[str, Maker] = {
    "AddBackward0": _weighted(lambda node: (1, node._saved_alpha)),
    "AddBackward1": _weighted(lambda node: (1,)),
    "SubBackward0": _weighted(lambda node: (1, -node._saved_alpha)),
    "RsubBackward0": _weighted(lambda node: (-node._saved_alpha, 1)),
    "RsubBackward1": _weighted(lambda node: (-node._saved_alpha,)),
    "MulBackward1": _weighted(lambda node: (node._saved_other,)),
    "DivBackward1": _weighted(lambda node: (1 / node._saved_other,)),
    "WhereBackward0": _weighted(_condition),
    "MaskedFillBackward0": _weighted(lambda node: _masked_fill(node)[:1]),
    "MaskedFillBackward1": _weighted(_masked_fill),
    "MaximumBackward0": _weighted(_first_if(torch.gt)),
    "MinimumBackward0": _weighted(_first_if(torch.lt)),
    "MulBackward0": Product,
    "DivBackward0": Quotient,
}
