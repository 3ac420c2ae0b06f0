"""Rules for products of matrices and vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.r_operator.rule import Rule, Tangents, present
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node


class MatrixProduct(Rule):
    """beta c + alpha a b, for matrices or batches of them; without c unless `offset`.

    The two terms of each operand are added by the multiplication itself, for a weight straight to the total.
    """

    def __init__(
        self, node: Node, wanted: Sequence[bool], names: tuple[str, str], offset: bool, batched: bool
    ) -> None:
        super().__init__(node, wanted)
        found = present(node, *names)
        self.saved = {key: found[name] for key, name in zip("ab", names, strict=True) if name in found}
        self.offset = 1 if offset else 0
        self.alpha = float(node._saved_alpha) if offset else 1.0
        self.beta = float(node._saved_beta) if offset else 1.0
        self.add = torch.baddbmm if batched else torch.addmm
        self.bends = all(self.wanted[self.offset : self.offset + 2])

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        a, b = tangents[self.offset :]
        made: Any = tangents[0] if self.offset else None
        beta = self.beta
        for first, second in ((a, self.saved.get("b")), (self.saved.get("a"), b)):
            if first is None or second is None:
                continue
            if made is None:
                made = first @ second if self.alpha == 1 else (first @ second).mul_(self.alpha)
            else:
                made = self.add(made, first, second, beta=beta, alpha=self.alpha)
            beta = 1.0
        if made is tangents[0] and self.offset and a is None and b is None:
            made = (made * beta).expand(self.shape)
        result: Tensor = made
        return result

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        if self.offset and moving is not None and into.wants(0):
            into.add(0, moving if self.beta == 1 else moving * self.beta, own=False)
        a, b = tangents[self.offset :]
        if self.alpha != 1 and moving is not None:
            moving = moving * self.alpha
        for slot, left in ((self.offset, False), (self.offset + 1, True)):
            if not into.wants(slot):
                continue
            other = self.saved.get("a" if left else "b")
            for cotangent, factor in ((moving, other), (self.saved.get("cotangent"), a if left else b)):
                if cotangent is None or factor is None:
                    continue
                flipped = factor.transpose(-1, -2)
                into.add_product(slot, *((flipped, cotangent) if left else (cotangent, flipped)))

    def settle(self) -> None:
        if self.alpha != 1 and "cotangent" in self.saved:
            self.saved["cotangent"] = self.saved["cotangent"] * self.alpha


class MatrixVector(Rule):
    """A matrix times a vector, or a dot product of two vectors."""

    def __init__(self, node: Node, wanted: Sequence[bool], names: tuple[str, str]) -> None:
        super().__init__(node, wanted)
        found = present(node, *names)
        self.saved = {key: found[name] for key, name in zip("ab", names, strict=True) if name in found}
        self.bends = all(self.wanted)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        a, b = tangents
        terms = []
        if a is not None:
            terms.append(a @ self.saved["b"])
        if b is not None:
            terms.append(self.saved["a"] @ b)
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        a, b = tangents
        cotangent = self.saved.get("cotangent")
        for d, first, second in (
            (moving, self.saved.get("a"), self.saved.get("b")),
            (cotangent, a, b),
        ):
            if d is None:
                continue
            if into.wants(0) and second is not None:
                into.add(0, torch.outer(d, second) if d.ndim else d * second)
            if into.wants(1) and first is not None:
                into.add(1, first.t() @ d if d.ndim else d * first)


Maker = Callable[[Node, Sequence[bool]], Rule]


def _matrices(first: str, second: str, *, offset: bool = False, batched: bool = False) -> Maker:
    return lambda node, wanted: MatrixProduct(node, wanted, (first, second), offset, batched)


PRODUCTS: dict[str, Maker] = {
    "MmBackward0": _matrices("self", "mat2"),
    "BmmBackward0": _matrices("self", "mat2", batched=True),
    "AddmmBackward0": _matrices("mat1", "mat2", offset=True),
    "BaddbmmBackward0": _matrices("batch1", "batch2", offset=True, batched=True),
    "MvBackward0": lambda node, wanted: MatrixVector(node, wanted, ("self", "vec")),
    "DotBackward0": lambda node, wanted: MatrixVector(node, wanted, ("self", "tensor")),
}
