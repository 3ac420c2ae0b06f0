"""Rules for convolutions and products of matrices: what a stack of cotangents is behind them.

Each takes the node, the stack of cotangents of its result and the operands asked for, and answers for those only: a
walk to the input never makes a gradient of weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradscope.gradients.engines.nodes import shape_of_operand
from gradscope.gradients.engines.stack import Stack
from gradscope.instruments.junctions.graph import Node

Found = dict[int, Stack | None]
Rule = Callable[[Node, Stack, Sequence[int]], Found]


def _convolution(node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    cotangents = stack.settled()
    found: Found = {}
    if 0 in slots:
        found[0] = Stack(stack.keys, _read_by_convolution(node, cotangents), own=True)
    if 1 in slots:
        weights = [
            _convolution_backward(node, row, node._saved_input, node._saved_weight, 1) for row in cotangents
        ]
        found[1] = Stack(stack.keys, torch.stack(weights))
    if 2 in slots:
        found[2] = Stack(stack.keys, cotangents.sum(dim=(1, *range(3, cotangents.ndim))))
    return found


def _read_by_convolution(node: Node, cotangents: Tensor) -> Tensor:
    """The rows count as more examples."""
    weight, shape = node._saved_weight, shape_of_operand(node, 0)
    merged = cotangents.reshape(-1, *cotangents.shape[2:])
    layout = torch.contiguous_format
    if merged.ndim == 4 and merged.device.type == "cpu" and merged.dtype is torch.float32:
        # Where the channels of a pixel are neighbours, oneDNN need not sort the numbers first.
        layout = torch.channels_last
    merged = merged.contiguous(memory_format=layout)
    # Asked for its shape only.
    read = torch.empty(
        (len(merged), *shape[1:]), dtype=merged.dtype, device=merged.device, memory_format=layout
    )
    found = _convolution_backward(node, merged, read, weight.contiguous(memory_format=layout), 0)
    return found.unflatten(0, (-1, shape[0]))


def _convolution_backward(node: Node, cotangent: Tensor, read: Tensor, weight: Tensor, slot: int) -> Tensor:
    """For the input (slot 0) or the weight (slot 1)."""
    return torch.ops.aten.convolution_backward(
        cotangent,
        *(read, weight, None, node._saved_stride, node._saved_padding, node._saved_dilation),
        *(
            node._saved_transposed,
            node._saved_output_padding,
            node._saved_groups,
            [slot == 0, slot == 1, False],
        ),
    )[slot]


def _sum_of_product(node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    """beta offset + alpha first @ second."""
    cotangents = stack.settled()
    found: Found = {}
    if 0 in slots:
        found[0] = _times(Stack(stack.keys, _summed(cotangents, shape_of_operand(node, 0))), node._saved_beta)
    for slot, gradient in _product(node, cotangents, [slot - 1 for slot in slots], "mat1").items():
        found[slot + 1] = _times(Stack(stack.keys, gradient), node._saved_alpha)
    return found


def _matrix_product(node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    found = _product(node, stack.settled(), slots, "self")
    return {slot: Stack(stack.keys, gradient) for slot, gradient in found.items()}


def _product(node: Node, cotangents: Tensor, slots: Sequence[int], first: str) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    if 0 in slots:
        # The rows below one another, so that it is one product of two matrices.
        below = cotangents.reshape(-1, cotangents.shape[-1]) @ node._saved_mat2.t()
        found[0] = below.unflatten(0, cotangents.shape[:2])
    if 1 in slots:
        found[1] = getattr(node, f"_saved_{first}").t() @ cotangents
    return found


def _times(stack: Stack, factor: float) -> Stack:
    return stack if factor == 1 else stack.scaled(stack.values.new_tensor(factor))


def _summed(cotangents: Tensor, shape: torch.Size) -> Tensor:
    """Over what was broadcast."""
    wide = [1] * (cotangents.ndim - 1 - len(shape)) + list(shape)
    spread = [place + 1 for place, size in enumerate(wide) if size == 1]
    return cotangents.sum(dim=spread).reshape(-1, *shape) if spread else cotangents


def _batched_product(node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    """The same for each matrix of a batch."""
    found: Found = {}
    cotangents = stack.settled()
    rows, batch, height, width = cotangents.shape
    if 0 in slots:
        below = cotangents.transpose(0, 1).reshape(batch, rows * height, width)
        gradient = torch.bmm(below, node._saved_mat2.transpose(1, 2))
        found[0] = Stack(stack.keys, gradient.unflatten(1, (rows, height)).transpose(0, 1))
    if 1 in slots:
        beside = cotangents.permute(1, 2, 0, 3).reshape(batch, height, rows * width)
        gradient = torch.bmm(node._saved_self.transpose(1, 2), beside)
        found[1] = Stack(stack.keys, gradient.unflatten(2, (rows, width)).permute(2, 0, 1, 3))
    return found


PRODUCTS: dict[str, Rule] = {
    "ConvolutionBackward0": _convolution,
    "AddmmBackward0": _sum_of_product,
    "MmBackward0": _matrix_product,
    "BmmBackward0": _batched_product,
}
