"""What one node of an autograd graph does to cotangents, asked of the node itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.junctions.graph import Node

# Rows for which a loop costs less than a batch, whose first use in a process takes a third of a second.
FEW = 4
Given = Sequence[Tensor | None]


def shapes_in(node: Node) -> list[torch.Size]:
    """The shapes of what a node made in the forward pass, whose cotangents it is given."""
    return [torch.Size(metadata.shape) for metadata in node._input_metadata]


def shape_of_operand(node: Node, slot: int) -> torch.Size:
    operand, number = node.next_functions[slot]
    return torch.Size(operand._input_metadata[number].shape)


def dtype_of_operand(node: Node, slot: int) -> torch.dtype:
    operand, number = node.next_functions[slot]
    return operand._input_metadata[number].dtype


def results(node: Node, given: Given, slots: Sequence[int]) -> list[Tensor | None]:
    """The gradients of some operands for a cotangent of each result; None is zero."""
    operands = node.next_functions
    if callable(node):
        found = node(*given)
        return [_fitted(gradient, operands[slot]) for slot, gradient in _at(found, slots)]
    # Written in Python: it answers for every argument of the forward, operands or not.
    # Copies, since published ones write into what they are given, which others may hold too.
    given = [
        _or_zeros(cotangent, place).clone()
        for cotangent, place in zip(given, node._input_metadata, strict=True)
    ]
    found = node.apply(*given)
    arguments = [place for place, needed in enumerate(node.needs_input_grad) if needed]
    alive = [slot for slot, (operand, _) in enumerate(operands) if operand is not None]
    argument_of = dict(zip(alive, arguments, strict=True))
    answers = _at(found, [argument_of[slot] for slot in slots])
    return [_fitted(gradient, operands[slot]) for slot, (_, gradient) in zip(slots, answers, strict=True)]


def _at(found: Any, places: Sequence[int]) -> list[tuple[int, Tensor | None]]:
    found = found if isinstance(found, tuple | list) else (found,)
    return [(place, found[place]) for place in places]


def _or_zeros(cotangent: Tensor | None, metadata: Any) -> Tensor:
    if cotangent is not None:
        return cotangent
    return torch.zeros(list(metadata.shape), dtype=metadata.dtype, device=metadata.device)


def batched(node: Node, given: Given, slots: Sequence[int]) -> list[Tensor | None]:
    """The same for stacks of cotangents, [rows, *shape] each: all rows at once if every operation can, else singly."""
    present = [number for number, stack in enumerate(given) if stack is not None]
    kept: list[int] = []

    def run(*rows: Tensor) -> tuple[Tensor, ...]:
        full: list[Tensor | None] = [None] * len(given)
        for number, row in zip(present, rows, strict=True):
            full[number] = row
        found = results(node, full, slots)
        kept[:] = [place for place, gradient in enumerate(found) if gradient is not None]
        # A row is handed on too, since vmap wants at least one result.
        return (rows[0], *(gradient for gradient in found if gradient is not None))

    stacks = [stack for stack in given if stack is not None]
    if len(stacks[0]) > FEW:
        try:
            with _no_hidden_loops():
                found = torch.vmap(run)(*stacks)[1:]
            return _placed(found, kept, len(slots))
        except Exception:
            # What stands in the way of a batch is anything; without it, what is wrong comes out below.
            kept.clear()
    rows = [run(*row)[1:] for row in zip(*stacks, strict=True)]
    return _placed([torch.stack(column) for column in zip(*rows, strict=True)], kept, len(slots))


def _placed(found: Sequence[Tensor], kept: Sequence[int], number: int) -> list[Tensor | None]:
    placed: list[Tensor | None] = [None] * number
    for place, gradient in zip(kept, found, strict=True):
        placed[place] = gradient
    return placed


def _fitted(gradient: Tensor | None, place: tuple[Node, int]) -> Tensor | None:
    """What the engine does behind each node: sums over what was broadcast, and the operand's own precision."""
    if gradient is None:
        return None
    operand, number = place
    metadata = operand._input_metadata[number]
    if gradient.shape != torch.Size(metadata.shape):
        gradient = gradient.sum_to_size(metadata.shape)
    return gradient.to(metadata.dtype)


@contextmanager
def _no_hidden_loops() -> Iterator[None]:
    """Operations without a batching rule raise: a loop around the whole node costs less than one around each."""
    functorch: Any = torch._C._functorch
    allowed = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(allowed)
