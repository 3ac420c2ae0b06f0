"""Rules for pooling, which is linear once it is known which entries are the largest."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.r_operator.rule import Rule, Tangents, all_signed, operand_shape, present, signed
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node


class Pooled(Rule):
    """Linear; its transpose is one of torch's operations, which wants an operand for its shape and layout only."""

    bends = False

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.taken = operand_shape(node, 0)
        self.saved = present(node, "result1") if hasattr(node, "_saved_result1") else {}

    def _like(self, tensor: Tensor) -> Tensor:
        channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(self.taken, dtype=tensor.dtype, device=tensor.device, memory_format=layout)

    def _picked(self, tangent: Tensor) -> Tensor:
        """The entries that were largest, whose places are counted over rows and columns of an image."""
        places = self.saved["result1"]
        return tangent.flatten(-2).gather(-1, places.flatten(-2)).view(self.shape)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return self._picked(tangents[0])


class MaxPool(Pooled):
    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        names = "kernel_size", "stride", "padding", "dilation"
        self.options = (*(list(getattr(node, f"_saved_{name}")) for name in names), node._saved_ceil_mode)

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        down = torch.ops.aten.max_pool2d_with_indices_backward
        into.add(0, down(moving, self._like(moving), *self.options, self.saved["result1"]))


class AdaptiveMaxPool(Pooled):
    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        down = torch.ops.aten.adaptive_max_pool2d_backward
        into.add(0, down(moving, self._like(moving), self.saved["result1"]))


class MeanPool(Pooled):
    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        names = "kernel_size", "stride", "padding"
        self.options = (
            *(list(getattr(node, f"_saved_{name}")) for name in names),
            *(node._saved_ceil_mode, node._saved_count_include_pad, node._saved_divisor_override),
        )

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        made: Tensor = torch.ops.aten.avg_pool2d(tangents[0], *self.options)
        return made

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        into.add(0, torch.ops.aten.avg_pool2d_backward(moving, self._like(moving), *self.options))


class AdaptiveMeanPool(Pooled):
    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        made: Tensor = torch.ops.aten._adaptive_avg_pool2d(tangents[0], self.shape[-2:])
        return made

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        into.add(0, torch.ops.aten._adaptive_avg_pool2d_backward(moving, self._like(moving)))


class LargestAlong(Rule):
    """The largest (or smallest) entries along an axis."""

    bends = False

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved, self.taken = present(node, "indices"), operand_shape(node, 0)
        self.axis, self.kept = signed(node._saved_dim), node._saved_keepdim

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        places = self.saved["indices"]
        made = tangents[0].gather(self.axis, places if self.kept else places.unsqueeze(self.axis))
        return made if self.kept else made.squeeze(self.axis)

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        places = self.saved["indices"]
        if not self.kept:
            moving, places = moving.unsqueeze(self.axis), places.unsqueeze(self.axis)
        into.add(0, moving.new_zeros(self.taken).scatter_add_(self.axis, places, moving))


class LargestOver(Rule):
    """The largest (or smallest) entries over some axes, equal ones sharing."""

    bends = False

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved = present(node, "self", "result")
        self.axes, self.kept = all_signed(node._saved_dim), node._saved_keepdim
        self.axes = self.axes or list(range(len(operand_shape(node, 0))))

    def _wide(self, tensor: Tensor, axes: int) -> Tensor:
        for axis in sorted(axis % axes for axis in self.axes if not self.kept):
            tensor = tensor.unsqueeze(axis)
        return tensor

    def settle(self) -> None:
        operand, result = self.saved.pop("self"), self.saved.pop("result")
        equal = (operand == self._wide(result, operand.ndim)).to(operand.dtype)
        self.saved["shares"] = equal / equal.sum(self.axes, keepdim=True)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return (tangents[0] * self.saved["shares"]).sum(self.axes, keepdim=self.kept)

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        shares = self.saved["shares"]
        into.add(0, self._wide(moving, shares.ndim) * shares)


POOLING: dict[str, Callable[[Node, Sequence[bool]], Rule]] = {
    "MaxPool2DWithIndicesBackward0": MaxPool,
    "AdaptiveMaxPool2DBackward0": AdaptiveMaxPool,
    "AvgPool2DBackward0": MeanPool,
    "AdaptiveAvgPool2DBackward0": AdaptiveMeanPool,
    "MaxBackward0": LargestAlong,
    "MinBackward0": LargestAlong,
    "AmaxBackward0": LargestOver,
    "AminBackward0": LargestOver,
}
