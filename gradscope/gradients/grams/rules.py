"""What one consuming node adds to the per-example gradients of its parameters, read off what it saved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from gradscope.gradients.engines.nodes import dtype_of_operand, shape_of_operand, shapes_in
from gradscope.gradients.grams.layout import Layout
from gradscope.gradients.grams.scaled import Scaled
from gradscope.gradients.grams.terms import Convolved, Elementwise, Embedded, Outer, Term
from gradscope.instruments.junctions.graph import Node


@dataclass(frozen=True, eq=False)
class Arrival:
    """A consuming node with what arrives at it.

    Attributes:
        node: It takes parameters.
        cotangents: At each of its results.
        layouts: Of the results.
        scaled: The first cotangent by example, [B, ...], its scale taken out.
    """

    node: Node
    cotangents: Sequence[Tensor | None]
    layouts: Mapping[int, Layout]
    scaled: Scaled | None

    @property
    def layout(self) -> Layout:
        return self.layouts[0]

    @property
    def gradients(self) -> Tensor:
        """The first cotangent by example."""
        cotangent = self.cotangents[0]
        if cotangent is None:
            raise ValueError("A node was asked for its parameters' gradients, but nothing arrived at it.")
        return self.layout.by_example(cotangent)

    def shape(self, slot: int) -> tuple[int, ...]:
        return tuple(shape_of_operand(self.node, slot))


def terms_of(arrival: Arrival, slots: Sequence[int]) -> dict[int, Term]:
    """The term of each of these slots, all of which have a rule."""
    found: dict[int, Term] = {}
    for slot in slots:
        rule = _rule(arrival.node, slot, arrival.layout)
        if rule is not None:
            found[slot] = rule(arrival, slot)
    return found


def has_rule(node: Node, slot: int, layouts: Mapping[int, Layout]) -> bool:
    """Whether a slot's gradient can be read off; else the node has to be asked, `asked`."""
    return 0 in layouts and _rule(node, slot, layouts[0]) is not None and not _is_complex(node, slot)


def _is_complex(node: Node, slot: int) -> bool:
    """Whether its numbers are complex, which no rule conjugates."""
    places = [node._input_metadata[0].dtype, dtype_of_operand(node, slot)]
    return any(dtype.is_complex for dtype in places)


def _rule(node: Node, slot: int, layout: Layout) -> "Rule | None":
    # Names end in a number: AddmmBackward0.
    choose = RULES.get(node.name().rstrip("0123456789"))
    return None if choose is None else choose(node, slot, layout)


def _first_factor(inputs: str) -> "Rule":
    """The parameter multiplies from the left what has its examples in the last axis."""

    def term(arrival: Arrival, slot: int) -> Term:
        turned = arrival.gradients.transpose(-1, -2)
        seen = arrival.layout.by_example(getattr(arrival.node, inputs)).transpose(-1, -2)
        return Outer(_flat(seen), _flat(turned), flipped=True)

    return term


def _second_factor(inputs: str) -> "Rule":
    def term(arrival: Arrival, slot: int) -> Term:
        gradients = arrival.gradients
        seen = arrival.layout.by_example(getattr(arrival.node, inputs))
        return Outer(_flat(seen), _flat(gradients), scaled=arrival.scaled if gradients.ndim == 3 else None)

    return term


def _flat(tensor: Tensor) -> Tensor:
    """[B, T, D] of itself or, for one batched product, of [B, 1, T, D]."""
    return tensor if tensor.ndim == 3 else tensor.flatten(1, -2)


def _product(node: Node, slot: int, layout: Layout, left: int, factors: tuple[str, str]) -> "Rule | None":
    dims = len(shapes_in(node)[0])
    if slot == left and layout.axis == dims - 1:
        return _first_factor(factors[1])
    return _second_factor(factors[0]) if slot == left + 1 and layout.axis == dims - 2 else None


def _mm(node: Node, slot: int, layout: Layout) -> "Rule | None":
    return _product(node, slot, layout, 0, ("_saved_self", "_saved_mat2"))


def _addmm(node: Node, slot: int, layout: Layout) -> "Rule | None":
    if slot == 0:
        return _shared(node, slot, layout, _added) if node._saved_beta == 1 else None
    return _product(node, slot, layout, 1, ("_saved_mat1", "_saved_mat2")) if node._saved_alpha == 1 else None


def _bmm(node: Node, slot: int, layout: Layout) -> "Rule | None":
    return _mm(node, slot, layout) if shape_of_operand(node, slot)[0] == 1 else None


def _add(node: Node, slot: int, layout: Layout) -> "Rule | None":
    return _shared(node, slot, layout, _added) if slot == 0 or node._saved_alpha == 1 else None


def _expand(node: Node, slot: int, layout: Layout) -> "Rule | None":
    return _shared(node, slot, layout, _added)


def _mul(node: Node, slot: int, layout: Layout) -> "Rule | None":
    other = node._saved_other if slot == 0 else node._saved_self
    return _shared(node, slot, layout, _multiplied) if isinstance(other, Tensor) else None


def _shared(node: Node, slot: int, layout: Layout, rule: "Rule") -> "Rule | None":
    """The rule, if a parameter broadcast against the result is the same for all examples."""
    shape = shape_of_operand(node, slot)
    place = layout.axis - (len(shapes_in(node)[0]) - len(shape))
    return rule if place < 0 or shape[place] == 1 else None


def _added(arrival: Arrival, slot: int) -> Term:
    return Elementwise(None, arrival.gradients, arrival.shape(slot), arrival.scaled)


def _multiplied(arrival: Arrival, slot: int) -> Term:
    return _times(arrival, slot, arrival.node._saved_other if slot == 0 else arrival.node._saved_self)


def _times(arrival: Arrival, slot: int, factor: Tensor) -> Term:
    """The parameter and what it multiplies are broadcast against the result."""
    shape = shapes_in(arrival.node)[0]
    factor = arrival.layout.by_example(factor.expand(shape))
    return Elementwise(factor, arrival.gradients, arrival.shape(slot), arrival.scaled)


def _convolution(node: Node, slot: int, layout: Layout) -> "Rule | None":
    if slot == 2:
        return _of_channels if layout.axis == 0 else None
    known = slot == 1 and not node._saved_transposed and len(shape_of_operand(node, 1)) <= 4
    return _convolved if known and layout.axis == 0 else None


def _convolved(arrival: Arrival, slot: int) -> Term:
    node = arrival.node
    stride, padding, dilation = (
        tuple(getattr(node, f"_saved_{n}")) for n in ("stride", "padding", "dilation")
    )
    inputs, groups = arrival.layout.by_example(node._saved_input), node._saved_groups
    return Convolved(
        inputs, arrival.gradients, arrival.shape(1), stride, padding, dilation, groups, arrival.scaled
    )


def _of_channels(arrival: Arrival, slot: int) -> Term:
    """What is added alike at all positions of a channel."""
    return Elementwise(None, arrival.gradients, _channels(arrival, slot), arrival.scaled)


def _channels(arrival: Arrival, slot: int) -> tuple[int, ...]:
    return (arrival.shape(slot)[0], *[1] * (arrival.gradients.ndim - 3))


def _embedding(node: Node, slot: int, layout: Layout) -> "Rule | None":
    """Counting how often a row was looked up in the whole batch mixes examples."""
    inside = layout.axis < len(shapes_in(node)[0]) - 1
    return _looked_up if inside and not node._saved_scale_grad_by_freq else None


def _looked_up(arrival: Arrival, slot: int) -> Term:
    node, gradients = arrival.node, arrival.gradients
    indices = arrival.layout.by_example(node._saved_indices)
    examples, width, padding = len(indices), gradients.shape[-1], node._saved_padding_idx
    # -1, which stands for no padding, is saved as an unsigned number.
    padding_idx = None if padding < 0 or padding >= 2**63 else padding
    return Embedded(
        indices.reshape(examples, -1),
        gradients.reshape(examples, -1, width),
        padding_idx,
        arrival.shape(0)[0],
    )


def _layer_norm(node: Node, slot: int, layout: Layout) -> "Rule | None":
    return _added if slot == 2 else _layer_normed


def _layer_normed(arrival: Arrival, slot: int) -> Term:
    node = arrival.node
    return _times(arrival, slot, (node._saved_input - node._saved_result1) * node._saved_result2)


def _group_norm(node: Node, slot: int, layout: Layout) -> "Rule | None":
    if layout.axis != 0:
        return None
    return _of_channels if slot == 2 else _group_normed


def _group_normed(arrival: Arrival, slot: int) -> Term:
    node, inputs = arrival.node, arrival.node._saved_input
    folded = inputs.reshape(len(inputs), node._saved_group, -1)
    normalised = (folded - node._saved_result1[..., None]) * node._saved_result2[..., None]
    factor = arrival.layout.by_example(normalised.reshape(inputs.shape))
    return Elementwise(factor, arrival.gradients, _channels(arrival, slot), arrival.scaled)


def _batch_norm(node: Node, slot: int, layout: Layout) -> "Rule | None":
    if layout.axis != 0:
        # Instance normalisation folds examples and channels together.
        return None
    if slot == 2:
        return _of_channels
    return None if node._saved_running_mean is None or node._saved_training else _batch_normed


def _batch_normed(arrival: Arrival, slot: int) -> Term:
    node, inputs = arrival.node, arrival.node._saved_input
    wide = (1, -1, *[1] * (inputs.ndim - 2))
    deviation = (node._saved_running_var + node._saved_eps).rsqrt().view(wide)
    # In place, for another copy would cost as much as the product; not as scale and shift, which cancel badly.
    factor = arrival.layout.by_example((inputs - node._saved_running_mean.view(wide)).mul_(deviation))
    return Elementwise(factor, arrival.gradients, _channels(arrival, slot), arrival.scaled)


Rule = Callable[[Arrival, int], Term]
# By a node's name without its number: chooses the rule for a slot, None where there is none.
RULES: dict[str, Callable[[Node, int, Layout], Rule | None]] = {
    "AddmmBackward": _addmm,
    "MmBackward": _mm,
    "BmmBackward": _bmm,
    "ConvolutionBackward": _convolution,
    "EmbeddingBackward": _embedding,
    "NativeLayerNormBackward": _layer_norm,
    "NativeGroupNormBackward": _group_norm,
    "NativeBatchNormBackward": _batch_norm,
    "AddBackward": _add,
    "MulBackward": _mul,
    "ExpandBackward": _expand,
}
