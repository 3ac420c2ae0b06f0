"""How a stack of cotangents crosses a node: rules for the layers where time goes, the node itself elsewhere."""

import re
from collections.abc import Sequence

from gradscope.gradients.engines.nodes import batched, dtype_of_operand, results, shape_of_operand, shapes_in
from gradscope.gradients.engines.norms import NORMS
from gradscope.gradients.engines.products import PRODUCTS, Found
from gradscope.gradients.engines.stack import Stack
from gradscope.instruments.junctions.graph import Node

LAYERS = PRODUCTS | NORMS
# Each number of the result hangs on the numbers at the same place in the operands, where these have its shape.
_POINTWISE = re.compile(
    r"(Add|Sub|Rsub|Mul|Div|Neg|Abs|Relu|Threshold|LeakyRelu|Elu|Celu|Selu|Gelu|Silu|Mish|Softplus|Hardtanh|Hardswish|"
    r"Hardsigmoid|Relu6|LogSigmoid|Tanh|Sigmoid|Erf|Exp|Expm1|Log|Log1P|Sqrt|Rsqrt|Pow|Sin|Cos|Square|Reciprocal|Clamp|"
    r"ClampMin|ClampMax|Where|MaskedFill|Maximum|Minimum|Addcmul|Lerp|NativeDropout|FusedDropout)Backward\d+"
)
_RESHAPED = re.compile(r"(View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Clone|Alias)Backward\d+")
# Another dtype, not another shape.
_NO_RESHAPE = ("ViewBackward1",)


def crossed(node: Node, arrived: Sequence[Stack | None], slots: Sequence[int]) -> Found:
    """What arrives at some operands of a node, given what arrives at its results; None is zero."""
    name = node.name()
    found: Found = {}
    if len(slots) > 1:
        arrived = [None if stack is None else stack.shared() for stack in arrived]
    if len(arrived) == 1 or all(stack is None for stack in arrived[1:]):
        stack = arrived[0]
        if stack is not None:
            found = _by_rule(name, node, stack, slots)
    rest = [slot for slot in slots if slot not in found]
    return found | _by_asking(node, arrived, rest) if rest else found


def _by_rule(name: str, node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    if _RESHAPED.fullmatch(name) and name not in _NO_RESHAPE:
        return {slots[0]: _reshaped(node, stack, slots[0])}
    if _POINTWISE.fullmatch(name):
        return _pointwise(name, node, stack, slots)
    rule = LAYERS.get(name)
    return {} if rule is None else rule(node, stack, slots)


def _reshaped(node: Node, stack: Stack, slot: int) -> Stack:
    shape = shape_of_operand(node, slot)
    if stack.values.shape[1:] == shape:
        return stack
    scale = stack.scale
    if scale is not None and scale.ndim:
        scale = scale.expand(stack.values.shape[1:]).reshape(shape)
    return Stack(stack.keys, stack.values.reshape(-1, *shape), scale, stack.own)


def _pointwise(name: str, node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    """The derivative is a number for each place: asked once, with ones, and left in the stack's scale."""
    shape, dtype = stack.values.shape[1:], stack.values.dtype
    same = [
        slot
        for slot in slots
        if shape_of_operand(node, slot) == shape and dtype_of_operand(node, slot) is dtype
    ]
    sums = name.startswith(("AddBackward", "SubBackward"))
    plain = [slot for slot in same if sums and (slot == 0 or _is_one(node, name))]
    asked = [slot for slot in same if slot not in plain]
    found: Found = dict.fromkeys(plain, stack)
    if asked:
        ones = [stack.values.new_ones(shape), *[None] * (len(shapes_in(node)) - 1)]
        for slot, derivative in zip(asked, results(node, ones, asked), strict=True):
            found[slot] = None if derivative is None else stack.scaled(derivative)
    return found


def _is_one(node: Node, name: str) -> bool:
    return name.startswith("Add") and getattr(node, "_saved_alpha", None) == 1


def _by_asking(node: Node, arrived: Sequence[Stack | None], slots: Sequence[int]) -> Found:
    keys = tuple(sorted({key for stack in arrived if stack is not None for key in stack.keys}))
    given = [None if stack is None else stack.spread(keys) for stack in arrived]
    found = batched(node, given, slots)
    return {
        slot: None if gradient is None else Stack(keys, gradient)
        for slot, gradient in zip(slots, found, strict=True)
    }
