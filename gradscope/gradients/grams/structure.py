"""Which nodes of one forward pass hold examples, where in their tensors, and which take parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradscope.gradients.engines.nodes import shape_of_operand, shapes_in
from gradscope.gradients.grams.layout import Layout
from gradscope.gradients.grams.propagation import crossed
from gradscope.gradients.grams.trial import tried
from gradscope.instruments.junctions.graph import Node, gradient_node

# Nodes that multiply what needs no gradient, and hence has no node, with parameters.
_PRODUCTS = ("AddmmBackward", "MmBackward", "BmmBackward", "ConvolutionBackward")


@dataclass
class Structure:
    """The graph of `values` [B], read once.

    Attributes:
        root: The values' node.
        order: All nodes, operands first.
        operands: `next_functions` of each.
        live: Nodes whose results depend on the examples.
        layouts: By live node, of each of its results that provably holds examples.
        apart: Live nodes at which the cotangent of one example's rows is that of its own value and of no other.
        taking: Live nodes with operands made from parameters alone, and the slots of these.
        mixed: Live nodes on the way to the values that are not known to be so.
        why: What keeps the first of them from being so.
    """

    root: Node | None
    order: list[Node]
    operands: dict[Node, tuple[tuple[Node | None, int], ...]]
    live: set[Node] = field(default_factory=set)
    layouts: dict[Node, dict[int, Layout]] = field(default_factory=dict)
    apart: set[Node] = field(default_factory=set)
    mixed: set[Node] = field(default_factory=set)
    taking: dict[Node, list[int]] = field(default_factory=dict)
    why: str = ""


def structure(values: Tensor, sources: Sequence[Tensor], integers: Sequence[Tensor]) -> Structure:
    """Read the graph behind `values`.

    Where examples come in otherwise than by an input is guessed first. A wrong guess costs time and no more: examples
    are then not kept apart on the way to the values, which is seen, and the graph is read again without guesses.

    Args:
        values: One for each example, [B].
        sources: Opened inputs, leaves, [B, ...].
        integers: Integer inputs, [B, ...], by which look-ups of an example are known from those of positions.

    Raises:
        ValueError: Re-entrant checkpoints, which hide parameters.
    """
    found = _read(values, sources, integers, guess=True)
    if any(node.name().startswith("CheckpointFunctionBackward") for node in found.order):
        raise ValueError(
            "Part of the model runs in torch.utils.checkpoint with use_reentrant=True, whose parameters are in no "
            "graph. Use use_reentrant=False, or switch checkpointing off."
        )
    if found.mixed:
        other = _read(values, sources, integers, guess=False)
        found = min(found, other, key=lambda one: (one.root not in one.live, len(one.mixed)))
    return found


def _read(values: Tensor, sources: Sequence[Tensor], integers: Sequence[Tensor], guess: bool) -> Structure:
    examples, root = len(values), gradient_node(values)
    order, operands = _operands_first(root)
    found = Structure(root, order, operands)
    leaves = {id(source): Layout(examples, 0) for source in sources}
    for node in order:
        alive = [slot for slot, (operand, _) in enumerate(operands[node]) if operand in found.live]
        others = [
            s for s, (operand, _) in enumerate(operands[node]) if operand is not None and s not in alive
        ]
        layouts: dict[int, Layout] | None = None
        if not alive:
            first = _begins(node, operands[node], examples, leaves, integers, guess)
            if first is None:
                continue
            layouts = {0: first} if first.fits(shapes_in(node)[0]) else None
        else:
            known = {slot: _layout(found, operands[node][slot]) for slot in alive}
            # An operand without a layout mixes examples below; above it, the others say how the result lies.
            told = {slot: layout for slot, layout in known.items() if layout is not None}
            if told:
                layouts = crossed(node, told) or tried(node, told)
        found.live.add(node)
        if layouts is not None:
            found.layouts[node] = layouts
        if others:
            found.taking[node] = others
    _descend(found, root, values)
    return found


def _layout(found: Structure, operand: tuple[Node | None, int]) -> Layout | None:
    node, number = operand
    return None if node is None else found.layouts.get(node, {}).get(number)


def _descend(found: Structure, root: Node | None, values: Tensor) -> None:
    """From the values down: a cotangent is an example's own if everything it comes from keeps examples apart."""
    fed: set[Node] = set()
    mixed = found.mixed
    if root is None or root not in found.live:
        found.why = "the values do not depend on the inputs in a way that can be followed"
        return
    if found.layouts.get(root, {}).get(0) != Layout(len(values), 0):
        mixed.add(root)
    fed.add(root)
    for node in reversed(found.order):
        if node not in fed:
            continue
        if node not in found.layouts:
            mixed.add(node)
        if node in mixed:
            if not found.why:
                found.why = f"{node.name()} may mix examples"
        else:
            found.apart.add(node)
        for operand, number in found.operands[node]:
            if operand in found.live:
                fed.add(operand)
                if node in mixed or number not in found.layouts.get(operand, {}):
                    mixed.add(operand)


def _begins(
    node: Node,
    operands: Sequence[tuple[Node | None, int]],
    examples: int,
    leaves: dict[int, Layout],
    integers: Sequence[Tensor],
    guess: bool,
) -> Layout | None:
    """The layout of a node at which examples come in."""
    variable = getattr(node, "variable", None)
    if variable is not None:
        return leaves.get(id(variable))
    name, made = node.name(), shapes_in(node)[0]
    if name.startswith("EmbeddingBackward"):
        return _looked_up(node._saved_indices, examples, integers, guess)
    if not guess or not made or made[0] == 0 or made[0] % examples:
        return None
    if name.startswith(("ExpandBackward", "RepeatBackward")):
        shape = shape_of_operand(node, 0)
        copied = made[0] == examples and (len(shape) < len(made) or shape[0] == 1)
        return Layout(examples, 0) if copied and _of_parameters(node) else None
    constant = name.startswith(_PRODUCTS) and any(operand is None for operand, _ in operands[:-1])
    constant = constant or name.startswith("EmbeddingBagBackward")
    return Layout(examples, 0, 1, made[0] // examples) if constant else None


def _of_parameters(node: Node) -> bool:
    """Whether a node has a parameter as its operand, perhaps behind views."""
    while len(node.next_functions) == 1:
        operand = node.next_functions[0][0]
        if operand is None:
            return False
        if hasattr(operand, "variable"):
            return isinstance(operand.variable, torch.nn.Parameter)
        node = operand
    return False


def _looked_up(indices: Tensor, examples: int, integers: Sequence[Tensor], guess: bool) -> Layout | None:
    for given in integers:
        same = given.data_ptr() == indices.data_ptr() and given.numel() == indices.numel()
        if given.shape == indices.shape and (
            (same and given.stride() == indices.stride()) or torch.equal(given, indices)
        ):
            return Layout(examples, 0)
        if same and given.is_contiguous() and indices.is_contiguous():
            return Layout(examples, 0).viewed(given.shape, indices.shape)
        if (
            same
            and given.ndim == 2
            and given.T.shape == indices.shape
            and given.T.stride() == indices.stride()
        ):
            return Layout(examples, 1)
    if not guess or _counts(indices):
        return None
    return next((Layout(examples, axis) for axis, size in enumerate(indices.shape) if size == examples), None)


def _counts(indices: Tensor) -> bool:
    """Whether these are positions, 0, 1, 2, ..."""
    flat = indices.flatten()
    return max(indices.shape) == len(flat) and bool((flat.diff() == 1).all())


def _operands_first(root: Node | None) -> tuple[list[Node], dict[Node, tuple[tuple[Node | None, int], ...]]]:
    # Autograd makes `next_functions` anew each time it is asked for it.
    operands: dict[Node, tuple[tuple[Node | None, int], ...]] = {}
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [] if root is None else [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in operands:
            continue
        operands[node] = node.next_functions
        stack.append((node, True))
        stack.extend((operand, False) for operand, _ in operands[node] if operand is not None)
    return order, operands
