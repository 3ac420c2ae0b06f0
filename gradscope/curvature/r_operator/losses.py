"""Rules for losses that torch computes in one operation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from gradscope.curvature.r_operator.rule import NoRule, Rule, Tangents, present, signed
from gradscope.curvature.r_operator.sums import Into
from gradscope.instruments.junctions.graph import Node

_NONE, _MEAN = 0, 1


class NegativeLogLikelihood(Rule):
    """Picks the entry of each example's class; linear."""

    bends = False

    def __init__(self, node: Any, wanted: Sequence[bool], kind: str) -> None:
        super().__init__(node, wanted)
        self.saved = present(node, "target", "weight", "total_weight", "self")
        self.reduction, self.ignored = node._saved_reduction, signed(node._saved_ignore_index)
        self.up = getattr(torch.ops.aten, f"{kind}_forward")
        self.down = getattr(torch.ops.aten, f"{kind}_backward")

    def settle(self) -> None:
        # The transpose wants to know the shape of what it takes, not the numbers.
        self.taken = self.saved.pop("self").shape

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        made: Tensor = self.up(
            tangents[0], self.saved["target"], self.saved.get("weight"), self.reduction, self.ignored
        )[0]
        return made

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        saved = self.saved
        made = self.down(
            *(moving, moving.new_empty(self.taken), saved["target"], saved.get("weight")),
            *(self.reduction, self.ignored, saved["total_weight"]),
        )
        into.add(0, made)


class Reduced(Rule):
    """A function of each output (its target being constant), then their sum or mean, or neither."""

    def __init__(self, node: Any, wanted: Sequence[bool], make: Callable[..., Any], *others: str) -> None:
        super().__init__(node, wanted)
        if any(self.wanted[1:]):
            raise NoRule(f"{node.name()} has targets that depend on the parameters")
        self.saved = present(node, "self", "target", *others)
        self.function = make(node)
        self.others = others
        self.reduction = node._saved_reduction

    def settle(self) -> None:
        x, target = self.saved.pop("self"), self.saved.pop("target")
        others = {name: self.saved.pop(name) for name in self.others if name in self.saved}
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (slope,) = grad(self.function(x, target, reduction="none", **others).sum(), x, create_graph=True)
            bend = grad(slope.sum(), x, allow_unused=True)[0] if slope.requires_grad else None
        share = x.numel() if self.reduction == _MEAN else 1
        self.saved["slope"] = slope.detach() / share
        cotangent = self.saved.pop("cotangent", None)
        self.bends = False
        if bend is not None and cotangent is not None:
            self.saved["bend"], self.bends = bend * cotangent / share, True

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        made: Tensor = self.saved["slope"] * tangents[0]
        return made if self.reduction == _NONE else made.sum()

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        if moving is not None:
            into.add(0, moving * self.saved["slope"])
        if tangents[0] is not None and self.bends:
            into.add(0, self.saved["bend"] * tangents[0])


Maker = Callable[[Any, Sequence[bool]], Rule]


def _picking(kind: str) -> Maker:
    return lambda node, wanted: NegativeLogLikelihood(node, wanted, kind)


def _reduced(make: Callable[..., Any], *others: str) -> Maker:
    return lambda node, wanted: Reduced(node, wanted, make, *others)


LOSSES: dict[str, Callable[[Node, Sequence[bool]], Rule]] = {
    "NllLossBackward0": _picking("nll_loss"),
    "NllLoss2DBackward0": _picking("nll_loss2d"),
    "MseLossBackward0": _reduced(lambda node: functional.mse_loss),
    "SmoothL1LossBackward0": _reduced(lambda node: partial(functional.smooth_l1_loss, beta=node._saved_beta)),
    "HuberLossBackward0": _reduced(lambda node: partial(functional.huber_loss, delta=node._saved_delta)),
    "BinaryCrossEntropyWithLogitsBackward0": _reduced(
        lambda node: functional.binary_cross_entropy_with_logits, "weight", "pos_weight"
    ),
}
