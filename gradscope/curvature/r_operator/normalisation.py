"""Rules for normalisation, by fixed statistics and by those of the numbers themselves."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.r_operator.rule import NoRule, Rule, Tangents, operand_shape, present
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node


def fixed_statistics(node: Any) -> dict[str, Tensor]:
    """What batch normalisation in eval mode computes with, [C] each: 1 / deviation, - mean, and its weight."""
    found = present(node, "running_mean", "running_var", "weight")
    if "running_mean" not in found or "running_var" not in found:
        raise NoRule(f"{node.name()} saved no running statistics")
    made = {
        "inverse": (found["running_var"] + node._saved_eps).rsqrt(),
        "shift": -found["running_mean"],
    }
    if "weight" in found:
        made["gamma"] = found["weight"]
    return made


class FixedNorm(Rule):
    """Batch normalisation in eval mode: a scale and a shift of each channel."""

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved = fixed_statistics(node)
        self.bends = self.wanted[1]
        if self.bends:
            self.saved |= present(node, "input")
        self.column = (1, -1, *[1] * (len(self.shape) - 2))
        self.axes = [0, *range(2, len(self.shape))]

    def settle(self) -> None:
        saved = self.saved
        for name in ("inverse", "shift", "gamma"):
            if name in saved:
                saved[name] = saved[name].view(self.column)
        gamma = saved.pop("gamma", None)
        saved["scale"] = saved["inverse"] if gamma is None else gamma * saved["inverse"]

    def _normalised(self) -> Tensor:
        return (self.saved["input"] + self.saved["shift"]) * self.saved["inverse"]

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        tangent, gamma, beta = tangents
        made = None
        if tangent is not None:
            made = tangent.mul_(self.saved["scale"]) if spare[0] else tangent * self.saved["scale"]
        if gamma is not None:
            term = self._normalised().mul_(gamma.view(self.column))
            made = term if made is None else made.add_(term)
        if beta is not None:
            shift = beta.view(self.column)
            made = shift.expand(self.shape) if made is None else made.add_(shift)
        return made  # type: ignore[return-value]

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        tangent, gamma, _ = tangents
        saved = self.saved
        if moving is not None:
            if into.wants(1):
                into.add(1, (moving * self._normalised()).sum(self.axes))
            if into.wants(2):
                into.add(2, moving.sum(self.axes))
            if into.wants(0):
                into.add(0, moving.mul_(saved["scale"]) if into.spare else moving * saved["scale"])
        if gamma is not None and into.wants(0):
            into.add(0, saved["cotangent"] * (gamma.view(self.column) * saved["inverse"]))
        if tangent is not None and into.wants(1):
            into.add(1, (saved["cotangent"] * tangent).mul_(saved["inverse"]).sum(self.axes))


class Normalised(Rule):
    """gamma z + beta, with z the numbers less their mean, over their deviation.

    Args:
        view: The shape in which `axes` are those that statistics are taken over.
        weight: The shape of gamma and beta beside it.
    """

    def __init__(
        self,
        node: Any,
        wanted: Sequence[bool],
        view: Sequence[int],
        axes: Sequence[int],
        weight: Sequence[int],
    ) -> None:
        super().__init__(node, wanted)
        self.view, self.axes, self.weight = list(view), list(axes), list(weight)
        self.saved = present(node, "input", "result1", "result2", "weight")
        learnt = [slot for slot in (1, 2) if self.wanted[slot]]
        self.learnt = operand_shape(node, learnt[0]) if learnt else torch.Size()
        self.outer = [axis for axis, size in enumerate(weight) if size == 1 and view[axis] != 1]

    def settle(self) -> None:
        saved = self.saved
        counted = [1 if axis in self.axes else size for axis, size in enumerate(self.view)]
        mean, inverse = (saved.pop(name).reshape(counted) for name in ("result1", "result2"))
        saved["inverse"] = inverse
        saved["z"] = (saved.pop("input").reshape(self.view) - mean) * inverse
        if "weight" in saved:
            saved["gamma"] = saved.pop("weight").reshape(self.weight)
        if "cotangent" in saved:
            saved["cotangent"] = saved["cotangent"].reshape(self.view)

    def _mean(self, tensor: Tensor) -> Tensor:
        return tensor.mean(self.axes, keepdim=True)

    def _centred(self, tensor: Tensor) -> Tensor:
        """Less what lies along ones and z: what normalisation does to tangents, and to cotangents."""
        z = self.saved["z"]
        along = self._mean(z * tensor)
        return (tensor - self._mean(tensor)).addcmul_(z, along, value=-1)

    def _weighted(self, tensor: Tensor) -> Tensor:
        return tensor * self.saved["gamma"] if "gamma" in self.saved else tensor

    def _per_weight(self, tensor: Tensor) -> Tensor:
        summed = tensor.sum(self.outer) if self.outer else tensor
        return summed.reshape(self.learnt)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        tangent, gamma, beta = tangents
        made = None
        if tangent is not None:
            made = self._weighted(self._centred(tangent.reshape(self.view)).mul_(self.saved["inverse"]))
        if gamma is not None:
            term = self.saved["z"] * gamma.reshape(self.weight)
            made = term if made is None else made.add_(term)
        if beta is not None:
            shift = beta.reshape(self.weight)
            made = shift.expand(self.view) if made is None else made.add_(shift)
        return made.reshape(self.shape)  # type: ignore[union-attr]

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        tangent, gamma, _ = tangents
        saved, z, inverse = self.saved, self.saved["z"], self.saved["inverse"]
        cotangent = saved.get("cotangent")
        step = None if tangent is None else self._centred(tangent.reshape(self.view)).mul_(inverse)
        # The cotangent of z, and how it moves.
        arriving = None if moving is None else moving.reshape(self.view)
        moved = None if arriving is None else self._weighted(arriving)
        if gamma is not None:
            term = cotangent * gamma.reshape(self.weight)
            moved = term if moved is None else moved + term
        if into.wants(0):
            made = None if moved is None else self._centred(moved).mul_(inverse)
            if step is not None:
                made = self._bent(step, tangent.reshape(self.view), made)
            if made is not None:
                into.add(0, made.reshape(self.shape))
        for factor, other in ((arriving, z), (cotangent, step)):
            if factor is not None and other is not None and into.wants(1):
                into.add(1, self._per_weight(factor * other))
        if arriving is not None and into.wants(2):
            # With nothing to sum over this is what arrived, which others may hold.
            into.add(2, self._per_weight(arriving), own=bool(self.outer))

    def _bent(self, step: Tensor, tangent: Tensor, made: Tensor | None) -> Tensor:
        """Add what the moving z and deviation do to the cotangent at hand."""
        saved, z, inverse = self.saved, self.saved["z"], self.saved["inverse"]
        given = self._weighted(saved["cotangent"])
        along = self._mean(given * z)
        term = step * along + z * self._mean(given * step)
        # The deviation moves by the tangent's part along z.
        stretch = self._mean(z * tangent) * inverse
        term = (term + self._centred(given) * stretch).mul_(inverse)
        return -term if made is None else made - term


def _batch_norm(node: Any, wanted: Sequence[bool]) -> Rule:
    if not node._saved_training:
        return FixedNorm(node, wanted)
    shape = node._input_metadata[0].shape
    weight = [1, shape[1], *[1] * (len(shape) - 2)]
    return Normalised(node, wanted, shape, [0, *range(2, len(shape))], weight)


def _layer_norm(node: Any, wanted: Sequence[bool]) -> Rule:
    shape, inner = node._input_metadata[0].shape, len(node._saved_normalized_shape)
    axes = list(range(len(shape) - inner, len(shape)))
    return Normalised(node, wanted, shape, axes, [*[1] * (len(shape) - inner), *shape[-inner:]])


def _group_norm(node: Any, wanted: Sequence[bool]) -> Rule:
    groups, channels = node._saved_group, node._saved_C
    view = [node._saved_N, groups, channels // groups, node._saved_HxW]
    return Normalised(node, wanted, view, [2, 3], [1, groups, channels // groups, 1])


NORMALISATIONS: dict[str, Callable[[Node, Sequence[bool]], Rule]] = {
    "NativeBatchNormBackward0": _batch_norm,
    "NativeLayerNormBackward0": _layer_norm,
    "NativeGroupNormBackward0": _group_norm,
}
