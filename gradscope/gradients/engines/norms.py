"""Rules for normalisation: what a stack of cotangents is behind it, in closed form."""

from collections.abc import Sequence

from torch import Tensor

from gradscope.gradients.engines.products import Found, Rule
from gradscope.gradients.engines.stack import Stack
from gradscope.instruments.junctions.graph import Node


def _layer_norm(node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    values, weight, inverse = node._saved_input, node._saved_weight, node._saved_result2
    own = len(node._saved_normalized_shape)
    normalised = (values - node._saved_result1) * inverse
    found = _affine(stack, normalised, tuple(range(1, stack.values.ndim - own)), slots)
    if 0 in slots:
        cotangents = stack if weight is None else stack.scaled(weight.expand_as(values))
        centred = _centred(cotangents.settled(), normalised, tuple(range(-own, 0)))
        found[0] = Stack(stack.keys, centred, inverse.expand_as(values), own=True)
    return found


def _batch_norm(node: Node, stack: Stack, slots: Sequence[int]) -> Found:
    """In training mode examples hang on one another by the batch's statistics; else the layer is affine."""
    values, weight, training = node._saved_input, node._saved_weight, node._saved_training
    across = tuple(place - values.ndim for place in range(values.ndim) if place != 1)
    if training:
        mean, inverse = node._saved_result1, node._saved_result2
    else:
        mean, inverse = node._saved_running_mean, (node._saved_running_var + _epsilon(node)).rsqrt()

    def by_channel(numbers: Tensor) -> Tensor:
        return numbers.view(-1, *[1] * (values.ndim - 2)).expand_as(values)

    factor = by_channel(inverse if weight is None else inverse * weight)
    if not training and tuple(slots) == (0,):
        return {0: stack.scaled(factor)}
    normalised = (values - by_channel(mean)) * by_channel(inverse)
    found = _affine(stack, normalised, across, slots)
    if 0 in slots and training:
        found[0] = Stack(stack.keys, _centred(stack.settled(), normalised, across), factor, own=True)
    elif 0 in slots:
        found[0] = stack.scaled(factor)
    return found


def _epsilon(node: Node) -> float:
    return node._saved_epsilon if hasattr(node, "_saved_epsilon") else node._saved_eps


def _affine(stack: Stack, normalised: Tensor, across: tuple[int, ...], slots: Sequence[int]) -> Found:
    """Behind the weight and the bias, operands 1 and 2."""
    found: Found = {}
    if 1 in slots:
        found[1] = Stack(stack.keys, (stack.settled() * normalised).sum(dim=across))
    if 2 in slots:
        found[2] = Stack(stack.keys, stack.settled().sum(dim=across))
    return found


def _centred(cotangents: Tensor, normalised: Tensor, dimensions: tuple[int, ...]) -> Tensor:
    """The cotangents less their parts along the ones and along the normalised values."""
    along = (cotangents * normalised).mean(dim=dimensions, keepdim=True)
    centred = cotangents - cotangents.mean(dim=dimensions, keepdim=True)
    return centred.addcmul_(normalised, along, value=-1)


NORMS: dict[str, Rule] = {
    "NativeLayerNormBackward0": _layer_norm,
    "NativeBatchNormBackward0": _batch_norm,
    "CudnnBatchNormBackward0": _batch_norm,
}
