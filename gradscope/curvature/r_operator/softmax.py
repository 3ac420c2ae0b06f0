"""Rules for softmax and its kin."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gradscope.curvature.r_operator.rule import Rule, Tangents, present, signed
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node


class Softmax(Rule):
    """y = softmax(x): y' = y (x' - <y, x'>)."""

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved, self.axis = present(node, "result"), signed(node._saved_dim)

    def _crossed(self, tensor: Tensor) -> Tensor:
        """Its Jacobian, which is symmetric, times a tensor."""
        result = self.saved["result"]
        weighted = result * tensor
        return weighted.addcmul_(result, weighted.sum(self.axis, keepdim=True), value=-1)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return self._crossed(tangents[0])

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        if moving is not None:
            into.add(0, self._crossed(moving))
        if tangents[0] is not None:
            result, cotangent = self.saved["result"], self.saved["cotangent"]
            moved = self._crossed(tangents[0])
            made = moved * (cotangent - (result * cotangent).sum(self.axis, keepdim=True))
            into.add(0, made.addcmul_(result, (moved * cotangent).sum(self.axis, keepdim=True), value=-1))


class LogSoftmax(Rule):
    """y = x - log sum exp x: y' = x' - <p, x'>, with the probabilities p."""

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved, self.axis = present(node, "result"), signed(node._saved_dim)

    def settle(self) -> None:
        self.saved["probabilities"] = self.saved.pop("result").exp()
        if "cotangent" in self.saved:
            self.saved["weight"] = self.saved.pop("cotangent").sum(self.axis, keepdim=True)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return tangents[0] - (self.saved["probabilities"] * tangents[0]).sum(self.axis, keepdim=True)

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        probabilities = self.saved["probabilities"]
        if moving is not None:
            into.add(0, moving - probabilities * moving.sum(self.axis, keepdim=True))
        if tangents[0] is not None and "weight" in self.saved:
            into.add(0, (self.forward(tangents, [False]) * probabilities).mul_(-self.saved["weight"]))


class LogSumExp(Rule):
    """log sum exp x along some axes: its slope is the softmax p."""

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.axes, self.kept = [signed(axis) for axis in node._saved_dim], node._saved_keepdim
        self.saved = present(node, "self", "result")

    def _wide(self, tensor: Tensor) -> Tensor:
        for axis in sorted(axis % self.saved["probabilities"].ndim for axis in self.axes if not self.kept):
            tensor = tensor.unsqueeze(axis)
        return tensor

    def settle(self) -> None:
        self.saved["probabilities"] = operand = self.saved.pop("self")
        self.saved["probabilities"] = (operand - self._wide(self.saved.pop("result"))).exp()

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return (self.saved["probabilities"] * tangents[0]).sum(self.axes, keepdim=self.kept)

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        probabilities = self.saved["probabilities"]
        if moving is not None:
            into.add(0, probabilities * self._wide(moving))
        if tangents[0] is not None:
            along = (probabilities * tangents[0]).sum(self.axes, keepdim=True)
            into.add(0, (tangents[0] - along).mul_(probabilities) * self._wide(self.saved["cotangent"]))


SOFTMAX: dict[str, Callable[[Node, Sequence[bool]], Rule]] = {
    "SoftmaxBackward0": Softmax,
    "SafeSoftmaxBackward0": Softmax,
    "LogSoftmaxBackward0": LogSoftmax,
    "LogsumexpBackward0": LogSumExp,
}
