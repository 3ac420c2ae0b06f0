"""How the layout of examples crosses one node of the graph: from its operands to its results, or not provably."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.engines.nodes import shape_of_operand, shapes_in
from gradscope.gradients.grams.layout import Layout
from gradscope.instruments.junctions.graph import Node

# By slot, for operands that hold examples.
Layouts = Mapping[int, Layout]

_POINTWISE = re.compile(
    r"(Add|Sub|Rsub|Mul|Div|Neg|Abs|Relu|Threshold|LeakyRelu|Prelu|PreluKernel|Elu|Celu|Selu|Gelu|Silu|Mish|Softplus|"
    r"Softshrink|Hardshrink|Hardtanh|Hardswish|Hardsigmoid|Relu6|LogSigmoid|Tanh|Sigmoid|Erf|Exp|Expm1|Log|Log1P|Sqrt|"
    r"Rsqrt|Pow|Sin|Cos|Atan|Square|Reciprocal|Clamp|ClampMin|ClampMax|Where|MaskedFill|Maximum|Minimum|Addcmul|Addcdiv|"
    r"Lerp|NativeDropout|Sgn|Sign|MseLoss|SmoothL1Loss|HuberLoss|BinaryCrossEntropy|BinaryCrossEntropyWithLogits|KlDiv|"
    r"Clone|Alias|ToCopy|Expand|ReluBackward|NanToNum|Xlogy)Backward\d+"
)
_VIEWS = re.compile(r"(View|UnsafeView|ReshapeAlias|Reshape|Squeeze|Unsqueeze|Flatten)Backward\d+")
_SPATIAL = re.compile(
    r"(Convolution|MaxPool2DWithIndices|MaxPool3DWithIndices|AvgPool2D|AvgPool3D|AdaptiveAvgPool2D|AdaptiveAvgPool3D|"
    r"AdaptiveMaxPool2D|AdaptiveMaxPool3D|Upsample\w+|ReflectionPad\w+|ReplicationPad\w+|PixelShuffle|PixelUnshuffle|"
    r"Im2Col|Col2Im|GridSampler\w+|NllLoss|NllLoss2D|NativeGroupNorm|ChannelShuffle|MaxUnpool2D)Backward\d+"
)
_ONE_AXIS = re.compile(
    r"(Softmax|LogSoftmax|SafeSoftmax|Cumsum|Cumprod|Glu|Slice|Narrow|Split|UnsafeSplit|SplitWithSizes|Sort|Topk|Gather|"
    r"IndexSelect|ConstantPadNd|Roll|Flip)Backward\d+"
)
_REDUCED = re.compile(
    r"(Sum|Mean|Amax|Amin|Max|Min|Logsumexp|Var|Std|VarMean|StdMean|Prod|LinalgVectorNorm|Norm|Median|Mode)Backward\d+"
)


def crossed(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    """Layout of each result that holds examples; None where the rules cannot tell.

    Args:
        node: Some operands of it hold examples.
        layouts: Of these operands.
    """
    rule = _rule_of(node.name())
    found = None if rule is None else rule(node, layouts)
    if found is None:
        return None
    shapes = shapes_in(node)
    results = {number: layout for number, layout in found.items() if layout.fits(shapes[number])}
    return results if 0 in results or (results and len(shapes) > 1) else None


@functools.cache
def _rule_of(name: str) -> "Rule | None":
    return next((rule for pattern, rule in _RULES if pattern.fullmatch(name)), None)


def signed(axis: int) -> int:
    """Axes are saved as unsigned numbers."""
    return axis - 2**64 if axis >= 2**63 else axis


def _axes(node: Node, dims: int) -> set[int]:
    saved = getattr(node, "_saved_dim", getattr(node, "_saved_dims", None))
    if saved is None or saved == ():
        return set(range(dims))
    saved = saved if isinstance(saved, list | tuple) else (saved,)
    return {signed(axis) % max(dims, 1) for axis in saved}


def _all_results(node: Node, layout: Layout | None) -> dict[int, Layout] | None:
    if layout is None:
        return None
    return {number: layout for number, shape in enumerate(shapes_in(node)) if layout.fits(shape)}


def _pointwise(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    dims = len(shapes_in(node)[0])
    aligned = {
        layout.moved(layout.axis + dims - len(shape_of_operand(node, slot)))
        for slot, layout in layouts.items()
    }
    if len(aligned) != 1:
        return None
    return _all_results(node, aligned.pop())


def _viewed(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    ((slot, layout),) = layouts.items()
    return _all_results(node, layout.viewed(shape_of_operand(node, slot), shapes_in(node)[0]))


def _transposed(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    ((slot, layout),) = layouts.items()
    dims = len(shape_of_operand(node, slot))
    order = list(range(dims))
    if node.name().startswith("Permute"):
        order = [signed(axis) % dims for axis in node._saved_dims]
    elif node.name().startswith("TBackward"):
        order.reverse()
    else:
        one, other = signed(node._saved_dim0) % dims, signed(node._saved_dim1) % dims
        order[one], order[other] = order[other], order[one]
    return _all_results(node, layout.moved(order.index(layout.axis)))


def _first_axis(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    layout = layouts.get(0)
    return (
        _all_results(node, layout) if len(layouts) == 1 and layout is not None and layout.axis == 0 else None
    )


def _along_one_axis(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    """Operations along one axis, or some, that leave the others as they are."""
    if len(layouts) != 1:
        return None
    ((slot, layout),) = layouts.items()
    shape = shape_of_operand(node, slot)
    same_size = layout.fits(shapes_in(node)[0])
    if node.name().startswith("ConstantPad"):
        touched = set(range(len(shape) - len(node._saved_pad) // 2, len(shape)))
    else:
        touched = _axes(node, len(shape))
    if layout.axis not in touched or (node.name().startswith(("Slice", "Narrow")) and same_size):
        return _all_results(node, layout)
    return None


def _reduced(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    if len(layouts) != 1:
        return None
    ((slot, layout),) = layouts.items()
    dims = len(shape_of_operand(node, slot))
    gone = _axes(node, dims)
    if layout.axis in gone:
        return None
    kept = all(len(shape) == dims for shape in shapes_in(node))
    return _all_results(
        node, layout if kept else layout.moved(layout.axis - sum(a < layout.axis for a in gone))
    )


def _picked(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    ((slot, layout),) = layouts.items()
    (gone,) = _axes(node, len(shape_of_operand(node, slot)))
    if gone == layout.axis:
        return None
    return _all_results(node, layout.moved(layout.axis - (gone < layout.axis)))


def _joined(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    if len(set(layouts.values())) != 1:
        return None
    layout = next(iter(layouts.values()))
    dims = len(shapes_in(node)[0])
    axis = signed(node._saved_dim) % dims
    if node.name().startswith("Stack"):
        return _all_results(node, layout.moved(layout.axis + (axis <= layout.axis)))
    return None if axis == layout.axis else _all_results(node, layout)


def _multiplied(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    """Matrix products, batched or not, with a third matrix or a vector added."""
    name, dims = node.name(), len(shapes_in(node)[0])
    added = name.startswith(("Addmm", "Baddbmm"))
    left, right = (1, 2) if added else (0, 1)
    found: set[Layout] = set()
    for slot, layout in layouts.items():
        contracted = dims - 1 if slot == left else dims - 2 if slot == right else None
        if layout.axis == contracted:
            return None
        short = dims - len(shape_of_operand(node, slot))
        found.add(layout.moved(layout.axis + short))
    if len(found) != 1 or (left in layouts and right in layouts and found.copy().pop().axis != dims - 3):
        return None
    return _all_results(node, found.pop())


def _attended(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    if len(set(layouts.values())) != 1 or not {0, 1, 2} <= set(layouts):
        return None
    layout = layouts[0]
    return _all_results(node, layout) if layout.axis < len(shapes_in(node)[0]) - 2 else None


def _layer_norm(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    layout = layouts.get(0)
    if layout is None or len(layouts) != 1:
        return None
    normalised = len(shape_of_operand(node, 0)) - len(node._saved_normalized_shape)
    return _all_results(node, layout) if layout.axis < normalised else None


def _batch_norm(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    return None if getattr(node, "_saved_training", True) else _first_axis(node, layouts)


def _indexed(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    """x[:, index], and x[arange(B), index], which picks a token of each example."""
    ((slot, layout),) = layouts.items()
    indices: Any = node._saved_indices
    first = indices[0] if indices else None
    if layout.axis != 0 or slot != 0:
        return None
    if first is None:
        given = [number for number, index in enumerate(indices) if index is not None]
        together = given == list(range(given[0], given[0] + len(given)))
        return _all_results(node, layout) if together else None
    rows = torch.arange(layout.size, device=first.device)
    own = isinstance(first, Tensor) and first.dtype != torch.bool and first.ndim >= 1
    if (
        own
        and first.shape[0] == layout.size
        and bool((first == rows.view(-1, *[1] * (first.ndim - 1))).all())
    ):
        return _all_results(node, layout)
    return None


def _recurrent(node: Node, layouts: Layouts) -> dict[int, Layout] | None:
    """The fused layer takes [T, B, D] and the states [B, H]."""
    layout = layouts.get(0)
    if layout is None or layout.axis != 1 or node._saved_batch_first:
        return None
    return {number: layout.moved(1 if len(shape) == 3 else 0) for number, shape in enumerate(shapes_in(node))}


Rule = Callable[[Node, Layouts], dict[int, Layout] | None]
_RULES: list[tuple[re.Pattern[str], Rule]] = [
    (_POINTWISE, _pointwise),
    (_VIEWS, _viewed),
    (re.compile(r"(Transpose|Permute|T|SwapAxes)Backward\d+"), _transposed),
    (re.compile(r"(Add|Badd)?(mm|Mm|bmm|Bmm)Backward\d+"), _multiplied),
    (_SPATIAL, _first_axis),
    (re.compile(r"NativeLayerNormBackward\d+"), _layer_norm),
    (re.compile(r"(Native|Cudnn|Miopen)BatchNormBackward\d+"), _batch_norm),
    (re.compile(r"ScaledDotProduct\w*Backward\d+"), _attended),
    (re.compile(r"(Select|Unbind)Backward\d+"), _picked),
    (re.compile(r"(Cat|Stack)Backward\d+"), _joined),
    (_ONE_AXIS, _along_one_axis),
    (_REDUCED, _reduced),
    (re.compile(r"IndexBackward\d+"), _indexed),
    (re.compile(r"MkldnnRnnLayerBackward\d+"), _recurrent),
]
