"""Rules for what is linear in its operands and saved no tensor: views, copies, sums, means, joints, splits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.curvature.r_operator.rule import NoRule, Rule, Tangents, all_signed, signed
from gradscope.curvature.r_operator.sums import Into, is_own
from gradscope.instruments.junctions.graph import Node

Map = Callable[[Tensor], Any]
Maker = Callable[[Any], Map]


class Linear(Rule):
    """The same map for values and tangents; its transpose is the node itself.

    Attributes:
        view: Whether it shows the same numbers otherwise.
    """

    bends = False

    def __init__(self, node: Node, wanted: Sequence[bool], make: Maker) -> None:
        super().__init__(node, wanted)
        self.view = node.name() in VIEWS
        self.transpose: Any = node
        self.apply = make(node)
        self.several = len(node._input_metadata) > 1

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Any:
        return self.apply(tangents[0])

    def backward(self, moving: Any, tangents: Tangents, into: Into) -> None:
        given = moving if self.several else [moving]
        made = self.transpose(*given)
        into.add(0, made, is_own(made, given, [into.spare] * len(given)))


class Joined(Rule):
    """Concatenated (or stacked) operands, some of which may be constant."""

    bends = False
    join = staticmethod(torch.cat)

    def __init__(self, node: Node, wanted: Sequence[bool]) -> None:
        super().__init__(node, wanted)
        self.transpose: Any = node
        self.axis = signed(node._saved_dim)
        metadata = node._input_metadata[0]
        # The sizes of constant operands are known to the node alone.
        parts = self._parts(torch.zeros((), dtype=metadata.dtype, device=metadata.device).expand(self.shape))
        if any(part is None for part in parts):
            raise NoRule(f"{node.name()} does not say how large its constant operands are")
        self.shapes = [part.shape for part in parts]

    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Tensor:
        like = next(tangent for tangent in tangents if tangent is not None)
        parts = [
            like.new_zeros(shape) if tangent is None else tangent
            for tangent, shape in zip(tangents, self.shapes, strict=True)
        ]
        return self.join(parts, self.axis)

    def backward(self, moving: Tensor, tangents: Tangents, into: Into) -> None:
        for slot, part in enumerate(self._parts(moving)):
            if into.wants(slot):
                into.add(slot, part, own=False)

    def _parts(self, joined: Tensor) -> Sequence[Tensor]:
        parts = self.transpose(joined)
        # Of a single operand, its tensor itself.
        return (parts,) if isinstance(parts, Tensor) else parts


class Stacked(Joined):
    join = staticmethod(torch.stack)


def _result_shape(node: Any) -> torch.Size:
    return torch.Size(node._input_metadata[0].shape)


def _reshape(node: Any) -> Map:
    shape = _result_shape(node)
    return lambda tangent: tangent.reshape(shape)


def _expand(node: Any) -> Map:
    shape = _result_shape(node)
    return lambda tangent: tangent.expand(shape)


def _same(node: Any) -> Map:
    return lambda tangent: tangent


def _permute(node: Any) -> Map:
    axes = all_signed(node._saved_dims)
    return lambda tangent: tangent.permute(axes)


def _transpose(node: Any) -> Map:
    first, second = signed(node._saved_dim0), signed(node._saved_dim1)
    return lambda tangent: tangent.transpose(first, second)


def _select(node: Any) -> Map:
    axis, index = signed(node._saved_dim), signed(node._saved_index)
    return lambda tangent: tangent.select(axis, index)


def _slice(node: Any) -> Map:
    axis, start, end = signed(node._saved_dim), signed(node._saved_start), signed(node._saved_end)
    step = node._saved_step
    return lambda tangent: torch.ops.aten.slice(tangent, axis, start, end, step)


def _sum(node: Any) -> Map:
    axes, kept = all_signed(node._saved_dim or ()), node._saved_keepdim
    return lambda tangent: tangent.sum(axes or None, keepdim=kept)


def _mean(node: Any) -> Map:
    axes, kept = all_signed(node._saved_dim or ()), node._saved_keepdim
    return lambda tangent: tangent.mean(axes or None, keepdim=kept)


def _pad(node: Any) -> Map:
    widths = all_signed(node._saved_pad)
    return lambda tangent: functional.pad(tangent, widths)


def _flip(node: Any) -> Map:
    axes = all_signed(node._saved_dims)
    return lambda tangent: tangent.flip(axes)


def _roll(node: Any) -> Map:
    shifts, axes = all_signed(node._saved_shifts), all_signed(node._saved_dims)
    return lambda tangent: tangent.roll(shifts, axes)


def _repeat(node: Any) -> Map:
    repeats = list(node._saved_repeats)
    return lambda tangent: tangent.repeat(repeats)


def _cumsum(node: Any) -> Map:
    axis = signed(node._saved_dim)
    return lambda tangent: tangent.cumsum(axis)


def _triangle(which: Callable[..., Tensor]) -> Maker:
    def make(node: Any) -> Map:
        diagonal = signed(node._saved_diagonal)
        return lambda tangent: which(tangent, diagonal)

    return make


def _pixel_shuffle(node: Any) -> Map:
    factor = node._saved_upscale_factor
    return lambda tangent: functional.pixel_shuffle(tangent, factor)


def _nearest(node: Any) -> Map:
    size, scales = node._saved_output_size, (node._saved_scales_h, node._saved_scales_w)
    return lambda tangent: torch.ops.aten.upsample_nearest2d(tangent, size, *scales)


def _bilinear(node: Any) -> Map:
    size, corners = node._saved_output_size, node._saved_align_corners
    scales = node._saved_scales_h, node._saved_scales_w
    return lambda tangent: torch.ops.aten.upsample_bilinear2d(tangent, size, corners, *scales)


def _split(node: Any) -> Map:
    axis = signed(node._saved_dim)
    sizes = getattr(node, "_saved_split_sizes", None) or node._saved_split_size
    return lambda tangent: tangent.split(sizes, axis)


def _unbind(node: Any) -> Map:
    axis = signed(node._saved_dim)
    return lambda tangent: tangent.unbind(axis)


# Of a parameter, these are the same memory seen otherwise, so that sums go straight to where they belong.
VIEWS: dict[str, Maker] = {
    "TBackward0": lambda node: lambda tangent: tangent.t(),
    "TransposeBackward0": _transpose,
    "PermuteBackward0": _permute,
    "ViewBackward0": _reshape,
    "UnsafeViewBackward0": _reshape,
    "ReshapeAliasBackward0": _reshape,
    "SqueezeBackward0": _reshape,
    "SqueezeBackward1": _reshape,
    "SqueezeBackward2": _reshape,
    "UnsqueezeBackward0": _reshape,
    "SelectBackward0": _select,
    "SliceBackward0": _slice,
    "AliasBackward0": _same,
}
MAPS: dict[str, Maker] = {
    "CloneBackward0": _same,
    "ExpandBackward0": _expand,
    "SumBackward0": lambda node: lambda tangent: tangent.sum(),
    "SumBackward1": _sum,
    "MeanBackward0": lambda node: lambda tangent: tangent.mean(),
    "MeanBackward1": _mean,
    "NegBackward0": lambda node: lambda tangent: tangent.neg(),
    "ConstantPadNdBackward0": _pad,
    "FlipBackward0": _flip,
    "RollBackward0": _roll,
    "RepeatBackward0": _repeat,
    "CumsumBackward0": _cumsum,
    "TrilBackward0": _triangle(torch.tril),
    "TriuBackward0": _triangle(torch.triu),
    "PixelShuffleBackward0": _pixel_shuffle,
    "UpsampleNearest2DBackward0": _nearest,
    "UpsampleBilinear2DBackward0": _bilinear,
    "SplitBackward0": _split,
    "SplitWithSizesBackward0": _split,
    "UnbindBackward0": _unbind,
}


def _rule(make: Maker) -> Callable[[Node, Sequence[bool]], Rule]:
    return lambda node, wanted: Linear(node, wanted, make)


LINEAR = {name: _rule(make) for name, make in (VIEWS | MAPS).items()} | {
    "CatBackward0": Joined,
    "StackBackward0": Stacked,
}
