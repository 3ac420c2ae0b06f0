"""How examples cross a node without a rule, found by asking its backward pass for groups of examples."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gradscope.gradients.engines.nodes import results, shape_of_operand, shapes_in
from gradscope.gradients.grams.layout import Layout
from gradscope.instruments.junctions.graph import Node

# Relative difference between what a group of examples is answered alone and together with all others.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


def tried(node: Node, layouts: Mapping[int, Layout]) -> dict[int, Layout] | None:
    """Layout of the results of a node, if only one keeps every example's cotangent with that example.

    Random cotangents of some examples must change only these examples' numbers of every operand. Where several layouts
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
    """Whether groups of examples do not meet, for groups that part every two examples from each other.

    What a group is given alone must change no number of the others, and the group's own numbers must be what they are
    when all are given: a backward pass that divides by a norm of the whole batch keeps zeros apart, and yet mixes.
    """
    metadata = node._input_metadata[number]
    random = torch.randn(math.prod(metadata.shape), generator=generator, dtype=torch.float64)
    full = random.to(metadata.dtype).to(metadata.device).view(list(metadata.shape))
    slots = [slot for slot, own in layouts.items() if own.fits(shape_of_operand(node, slot))]
    given: list[Tensor | None] = [None] * len(shapes_in(node))

    def answered(cotangent: Tensor) -> list[Tensor | None]:
        given[number] = cotangent
        gradients = results(node, given, slots)
        pairs = zip(slots, gradients, strict=True)
        return [None if one is None else layouts[slot].by_example(one).flatten(1) for slot, one in pairs]

    together = answered(full)
    if not any(whole is not None and bool(whole.any()) for whole in together):
        return False
    for group in _groups(layout.examples):
        for whole, alone in zip(together, answered(layout.of_examples(full, group)), strict=True):
            if whole is None:
                continue
            others = torch.ones(layout.examples, dtype=torch.bool)
            others[group] = False
            if alone is None or bool((alone[others.to(alone.device)] != 0).any()):
                return False
            own, expected = alone[group.to(alone.device)], whole[group.to(alone.device)]
            tolerance = TOLERANCE.get(own.dtype, 1e-2) * float(expected.abs().max())
            if not float((own - expected).abs().max()) <= tolerance:
                return False
    return True


def _groups(examples: int) -> Iterator[Tensor]:
    """By each binary digit of their numbers, so that any two examples are in different groups at least once."""
    numbers = torch.arange(examples)
    for digit in range((examples - 1).bit_length()):
        ones = (numbers >> digit) % 2 == 1
        yield ones.nonzero()[:, 0]
        yield (~ones).nonzero()[:, 0]
