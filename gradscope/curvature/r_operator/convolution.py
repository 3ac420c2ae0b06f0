"""Rules for convolutions, alone and with the batch normalisation behind them folded in."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.r_operator.normalisation import fixed_statistics
from gradscope.curvature.r_operator.rule import Rule, Tangents, all_signed, present
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node


class Convolution(Rule):
    """W * x + b: two convolutions up, and two pairs of them down."""

    def __init__(self, node: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved = present(node, "input", "weight")
        self.options = (
            *(all_signed(getattr(node, f"_saved_{name}")) for name in ("stride", "padding", "dilation")),
            node._saved_transposed,
            all_signed(node._saved_output_padding),
            node._saved_groups,
        )
        self.axes = [0, *range(2, len(self.shape))]
        self.bends = all(self.wanted[:2])

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return self._up(tangents[0], self.saved["weight"], tangents[1], tangents[2])

    def _up(self, tangent: Any, weight: Tensor, moved: Any, offset: Any) -> Tensor:
        """The tangent of the result, for a weight that moves, and a bias that does."""
        convolution = torch.ops.aten.convolution
        made = None
        if moved is not None:
            made = convolution(self.saved["input"], moved, offset, *self.options)
            offset = None
        if tangent is not None:
            term = convolution(tangent, weight, offset, *self.options)
            return term if made is None else made.add_(term)
        if made is None:
            made = offset.view(-1, *[1] * (len(self.shape) - 2)).expand(self.shape)
        return made

    def _down(self, cotangent: Tensor, taken: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Any:
        """What a cotangent is at the operand and at the weight."""
        return torch.ops.aten.convolution_backward(
            cotangent, taken, weight, None, *self.options, [*wanted, False]
        )[:2]

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        wanted = [into.wants(0), into.wants(1)]
        for slot, term in self._moved(moving, tangents[0], tangents[1], self.saved["weight"], wanted):
            into.add(slot, term)
        if moving is not None and into.wants(2):
            into.add(2, moving.sum(self.axes))

    def _moved(
        self, moving: Any, tangent: Any, moved: Any, weight: Tensor, wanted: Sequence[bool]
    ) -> list[tuple[int, Tensor]]:
        """Terms of the tangents of the cotangents, of the operand (0) and of the weight (1)."""
        taken, terms = self.saved["input"], []
        if moving is not None and any(wanted):
            terms += list(enumerate(self._down(moving, taken, weight, wanted)))
        crossing = [wanted[0] and moved is not None, wanted[1] and tangent is not None]
        if any(crossing):
            # An operand that is not asked about is looked at for its shape only.
            given = taken if tangent is None else tangent, weight if moved is None else moved
            terms += list(enumerate(self._down(self.saved["cotangent"], *given, crossing)))
        return [(slot, term) for slot, term in terms if term is not None]


class NormalisedConvolution(Convolution):
    """A convolution and batch normalisation by fixed statistics, as one convolution.

    gamma (W * x + b - mean) / deviation + beta is a convolution with the weight gamma W / deviation, of which W and
    gamma are seen through the chain rule. What lies between the two is never made.

    Args:
        node: The convolution.
        normalisation: The node behind it, which alone takes its result.
        wanted: Operands of the convolution (input, weight, bias), then weight and bias of the normalisation.
    """

    def __init__(self, node: Any, normalisation: Any, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved |= fixed_statistics(normalisation)
        if _has_bias(node):
            self.saved["shift"] = self.saved["shift"] + node.next_functions[2][0].variable.detach()
        self.bends = True

    def settle(self) -> None:
        saved = self.saved
        gamma = saved.pop("gamma", None)
        saved["scale"] = saved["inverse"] if gamma is None else gamma * saved["inverse"]
        saved["folded"] = self._columns(saved["scale"]) * saved["weight"]
        if "cotangent" in saved and self.wanted[3]:
            cotangent = saved["cotangent"]
            saved["folded gradient"] = self._down(cotangent, saved["input"], saved["weight"], [False, True])[
                1
            ]
            saved["bias gradient"] = cotangent.sum(self.axes)

    def _columns(self, vector: Tensor) -> Tensor:
        """One number for each output channel, beside the weight."""
        return vector.view(-1, *[1] * (self.saved["weight"].ndim - 1))

    def _folded(self, tangents: Tangents) -> tuple[Any, Any]:
        """Tangents of the folded weight and bias."""
        saved = self.saved
        _, weight, bias, gamma, beta = tangents
        moved = None if weight is None else self._columns(saved["scale"]) * weight
        offset = None if bias is None else saved["scale"] * bias
        if gamma is not None:
            stretch = gamma * saved["inverse"]
            term = self._columns(stretch) * saved["weight"]
            moved = term if moved is None else moved + term
            term = stretch * saved["shift"]
            offset = term if offset is None else offset + term
        if beta is not None:
            offset = beta if offset is None else offset + beta
        return moved, offset

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return self._up(tangents[0], self.saved["folded"], *self._folded(tangents))

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        saved = self.saved
        moved, _ = self._folded(tangents)
        wanted = [into.wants(0), into.wants(1) or into.wants(3)]
        gradient = None
        for slot, term in self._moved(moving, tangents[0], moved, saved["folded"], wanted):
            if slot == 0:
                into.add(0, term)
            else:
                gradient = term if gradient is None else gradient.add_(term)
        stretch = None if tangents[3] is None else tangents[3] * saved["inverse"]
        total = None if moving is None else moving.sum(self.axes)
        self._to_weights(gradient, total, stretch, into)
        if into.wants(3):
            self._to_scale(gradient, total, tangents, into)
        if total is not None:
            into.add(4, total)

    def _to_weights(self, gradient: Any, total: Any, stretch: Any, into: Into) -> None:
        saved = self.saved
        if into.wants(1):
            if gradient is not None:
                into.add(1, gradient * self._columns(saved["scale"]))
            if stretch is not None:
                into.add(1, saved["folded gradient"] * self._columns(stretch))
        if into.wants(2):
            if total is not None:
                into.add(2, total * saved["scale"])
            if stretch is not None:
                into.add(2, saved["bias gradient"] * stretch)

    def _to_scale(self, gradient: Any, total: Any, tangents: Tangents, into: Into) -> None:
        saved = self.saved
        inverse = saved["inverse"]
        if gradient is not None:
            into.add(3, (saved["weight"] * gradient).flatten(1).sum(1) * inverse)
        if tangents[1] is not None:
            into.add(3, (tangents[1] * saved["folded gradient"]).flatten(1).sum(1) * inverse)
        if total is not None:
            into.add(3, total * saved["shift"] * inverse)
        if tangents[2] is not None:
            into.add(3, tangents[2] * saved["bias gradient"] * inverse)


def foldable(convolution: Any, normalisation: Any) -> bool:
    """Whether batch normalisation by fixed statistics takes what a convolution with a known bias made."""
    if convolution.name() != "ConvolutionBackward0" or normalisation.name() != "NativeBatchNormBackward0":
        return False
    bias = convolution.next_functions[2][0]
    known = hasattr(bias, "variable") or not _has_bias(convolution)
    return known and not convolution._saved_transposed and not normalisation._saved_training


def _has_bias(convolution: Any) -> bool:
    return convolution._saved_bias_sym_sizes_opt not in (None, (0,))


CONVOLUTIONS: dict[str, Callable[[Node, Sequence[bool]], Rule]] = {"ConvolutionBackward0": Convolution}
