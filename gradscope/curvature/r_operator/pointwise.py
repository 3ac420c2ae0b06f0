"""Rules for functions of one number, applied to each: what is kept are the slope, and the bend times the cotangent."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from gradscope.curvature.r_operator.rule import NoRule, Rule, Tangents, present
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node

Function = Callable[[Tensor], Tensor]


class Rectified(Rule):
    """max(x, 0), whose slope is read off its result."""

    bends = False

    def __init__(
        self, node: Node, wanted: Sequence[bool], name: str = "result", threshold: float = 0.0
    ) -> None:
        super().__init__(node, wanted)
        self.saved, self.name, self.threshold = present(node, name), name, threshold

    def _gated(self, tangent: Tensor, spare: bool) -> Tensor:
        gate = torch.ops.aten.threshold_backward
        if spare and tangent.is_contiguous(memory_format=_layout(self.saved[self.name])):
            return gate.grad_input(tangent, self.saved[self.name], self.threshold, grad_input=tangent)
        return gate(tangent, self.saved[self.name], self.threshold)

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        return self._gated(tangents[0], spare[0])

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        into.add(0, self._gated(moving, into.spare))


def _layout(tensor: Tensor) -> torch.memory_format:
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


class Pointwise(Rule):
    """y = f(x): y' = f'(x) x' and d_x' = f'(x) d' + f''(x) d x'."""

    def _keep(self, slope: Tensor, bend: Tensor | None) -> None:
        """Given f'(x) and f''(x) d."""
        self.saved = {"slope": slope}
        if bend is not None and bool(bend.any()):
            self.saved["bend"] = bend
        self.bends = "bend" in self.saved

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        (tangent,) = tangents[:1]
        return tangent.mul_(self.saved["slope"]) if spare[0] else tangent * self.saved["slope"]

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        made = None
        if moving is not None:
            made = moving.mul_(self.saved["slope"]) if into.spare else moving * self.saved["slope"]
        if tangents[0] is not None and "bend" in self.saved:
            bent = self.saved["bend"]
            made = bent * tangents[0] if made is None else made.addcmul_(bent, tangents[0])
        if made is not None:
            into.add(0, made)


class OfOperand(Pointwise):
    """A function known by name, differentiated once, when the graph is read."""

    def __init__(self, node: Node, wanted: Sequence[bool], make: Callable[[Any], Function]) -> None:
        super().__init__(node, wanted)
        self.function = make(node)
        self.saved = present(node, "self")
        if any(self.wanted[1:]):
            raise NoRule(f"{node.name()} has a second operand that depends on parameters")

    def settle(self) -> None:
        with torch.enable_grad():
            x = self.saved["self"].clone().requires_grad_()
            (slope,) = grad(self.function(x).sum(), x, create_graph=True)
            cotangent = self.saved.get("cotangent")
            bend = None
            if cotangent is not None and slope.requires_grad:
                (bend,) = grad(slope, x, cotangent, allow_unused=True)
        self._keep(slope.detach(), bend)


class OfResult(Pointwise):
    """A function whose slope and bend are functions of its result."""

    def __init__(self, node: Node, wanted: Sequence[bool], slope: Function, bend: Function) -> None:
        super().__init__(node, wanted)
        self.slope, self.bend = slope, bend
        self.saved = present(node, "result")

    def settle(self) -> None:
        result, cotangent = self.saved["result"], self.saved.get("cotangent")
        self._keep(self.slope(result), None if cotangent is None else self.bend(result) * cotangent)


class Gated(Rule):
    """Where x > 0 x, else w x, the weight being learnt (PReLU)."""

    def __init__(self, node: Node, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.saved = present(node, "self", "weight")

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        x, (tangent, moved) = self.saved["self"], tangents
        first = None if tangent is None else torch.where(x > 0, tangent, tangent * self.saved["weight"])
        second = None if moved is None else x.clamp(max=0) * moved
        return second if first is None else first if second is None else first + second  # type: ignore[return-value]

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        x, (tangent, moved) = self.saved["self"], tangents
        if moving is not None:
            into.add(0, torch.where(x > 0, moving, moving * self.saved["weight"]))
            into.add(1, x.clamp(max=0) * moving)
        if tangent is not None or moved is not None:
            below = self.saved["cotangent"] * (x <= 0)
            if moved is not None:
                into.add(0, below * moved)
            if tangent is not None:
                into.add(1, below * tangent)


def _named(function: Callable[..., Tensor], **names: str) -> Callable[[Any], Function]:
    """A function with arguments under the names that its node saved them by."""
    return lambda node: partial(
        function, **{name: getattr(node, f"_saved_{kept}") for name, kept in names.items()}
    )


def _elu(node: Any) -> Function:
    numbers = node._saved_alpha, node._saved_scale, node._saved_input_scale
    return lambda x: torch.ops.aten.elu(x, *numbers)


FUNCTIONS: dict[str, Callable[[Any], Function]] = {
    "GeluBackward0": _named(functional.gelu, approximate="approximate"),
    "SiluBackward0": _named(functional.silu),
    "MishBackward0": _named(functional.mish),
    "EluBackward0": _elu,
    "SoftplusBackward0": _named(functional.softplus, beta="beta", threshold="threshold"),
    "LeakyReluBackward0": _named(functional.leaky_relu, negative_slope="negative_slope"),
    "HardtanhBackward0": _named(functional.hardtanh, min_val="min_val", max_val="max_val"),
    "HardswishBackward0": _named(functional.hardswish),
    "LogSigmoidBackward0": _named(functional.logsigmoid),
    "ClampBackward1": _named(torch.clamp, min="min", max="max"),
    "ClampMinBackward0": _named(torch.clamp, min="min"),
    "ClampMaxBackward0": _named(torch.clamp, max="max"),
    "PowBackward0": _named(torch.pow, exponent="exponent"),
    "LogBackward0": _named(torch.log),
    "Log1PBackward0": _named(torch.log1p),
    "SinBackward0": _named(torch.sin),
    "CosBackward0": _named(torch.cos),
    "AbsBackward0": _named(torch.abs),
    "ErfBackward0": _named(torch.erf),
}
# Slope and bend, given the result y.
RESULTS: dict[str, tuple[Function, Function]] = {
    "TanhBackward0": (lambda y: 1 - y * y, lambda y: -2 * y * (1 - y * y)),
    "SigmoidBackward0": (lambda y: y * (1 - y), lambda y: y * (1 - y) * (1 - 2 * y)),
    "ExpBackward0": (lambda y: y, lambda y: y),
    "Expm1Backward0": (lambda y: y + 1, lambda y: y + 1),
    "SqrtBackward0": (lambda y: 0.5 / y, lambda y: -0.25 / y**3),
    "RsqrtBackward0": (lambda y: -0.5 * y**3, lambda y: 0.75 * y**5),
    "ReciprocalBackward0": (lambda y: -(y**2), lambda y: 2 * y**3),
}


def _leaky_in_place(node: Any) -> tuple[Function, Function]:
    slope = node._saved_negative_slope
    return lambda y: torch.ones_like(y).masked_fill_(y <= 0, slope), torch.zeros_like


def _elu_in_place(node: Any) -> tuple[Function, Function]:
    alpha, scale, inner = node._saved_alpha, node._saved_scale, node._saved_input_scale

    def slope(y: Tensor) -> Tensor:
        return torch.where(y > 0, scale, (y + scale * alpha) * inner)

    return slope, lambda y: torch.where(y > 0, 0.0, slope(y) * inner)


def _of_operand(make: Callable[[Any], Function]) -> Callable[[Node, Sequence[bool]], Rule]:
    return lambda node, wanted: OfOperand(node, wanted, make)


def _of_result(make: Callable[[Any], tuple[Function, Function]]) -> Callable[[Node, Sequence[bool]], Rule]:
    return lambda node, wanted: OfResult(node, wanted, *make(node))


def _always(pair: tuple[Function, Function]) -> Callable[[Any], tuple[Function, Function]]:
    return lambda node: pair


POINTWISE: dict[str, Callable[[Any, Sequence[bool]], Rule]] = {
    **{name: _of_operand(make) for name, make in FUNCTIONS.items()},
    **{name: _of_result(_always(pair)) for name, pair in RESULTS.items()},
    "LeakyReluBackward1": _of_result(_leaky_in_place),
    "EluBackward1": _of_result(_elu_in_place),
    "ReluBackward0": Rectified,
    "ThresholdBackward0": lambda node, wanted: Rectified(node, wanted, "self", node._saved_threshold),
    "PreluKernelBackward0": Gated,
}
