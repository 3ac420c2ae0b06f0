"""How examples cross a node without a rule, found by asking its backward pass for one example after the other."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gradscope.gradients.engines.nodes import results, shape_of_operand, shapes_in
from gradscope.gradients.grams.layout import Layout
from gradscope.instruments.junctions.graph import Node

# Examples asked: each costs one backward pass of the node.
ASKED = 3


def tried(node: Node, layouts: Mapping[int, Layout]) -> dict[int, Layout] | None:
    """Layout of the results of a node, if only one keeps every example's cotangent with that example.

    Random cotangents of one example must change only that example's numbers of every operand. Where several layouts
    do so, the operand's own is taken if it is among them, since most layers keep the order.

    Args:
        node: Without a rule, or written in Python.
        layouts: Of its operands that hold examples.

    Returns:
        By number of the result; None if examples mix, or more than one layout would do.
    """
    if node.name().startswith("CheckpointFunctionBackward"):
        # Asked alone, it would write into `.grad`.
        return None
    try:
        return _tried(node, layouts)
    except Exception:
        # A user's own backward may raise anything when asked alone; then nothing is known about it.
        return None


def _tried(node: Node, layouts: Mapping[int, Layout]) -> dict[int, Layout] | None:
    shapes = shapes_in(node)
    examples = next(iter(layouts.values())).examples
    generator = torch.Generator().manual_seed(0)
    found: dict[int, Layout] = {}
    for number, shape in enumerate(shapes):
        fitting = [
            layout
            for layout in _candidates(shape, examples)
            if _keeps_apart(node, number, layout, layouts, generator)
        ]
        own = [layout for layout in fitting if layout in layouts.values()]
        chosen = fitting if len(fitting) == 1 else own if len(own) == 1 else []
        if not chosen:
            return None
        found[number] = chosen[0]
    return found


def _candidates(shape: torch.Size, examples: int) -> Iterator[Layout]:
    for axis, size in enumerate(shape):
        if size and size % examples == 0:
            folded = size // examples
            for before in (n for n in range(1, folded + 1) if folded % n == 0):
                yield Layout(examples, axis, before, folded // before)


def _keeps_apart(
    node: Node, number: int, layout: Layout, layouts: Mapping[int, Layout], generator: torch.Generator
) -> bool:
    metadata = node._input_metadata[number]
    random = torch.randn(math.prod(metadata.shape), generator=generator, dtype=torch.float64)
    full = random.to(metadata.dtype).to(metadata.device).view(list(metadata.shape))
    given: list[Tensor | None] = [None] * len(shapes_in(node))
    met = False
    for example in sorted({0, layout.examples // 2, layout.examples - 1})[:ASKED]:
        given[number] = layout.of_example(full, example)
        for (slot, own), gradient in zip(layouts.items(), results(node, given, list(layouts)), strict=True):
            if gradient is None or not own.fits(shape_of_operand(node, slot)):
                continue
            others = own.by_example(gradient).flatten(1).abs().amax(dim=1)
            met = met or bool(others[example] > 0)
            others[example] = 0
            if bool((others != 0).any()):
                return False
    return met
