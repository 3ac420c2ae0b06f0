"""The examples of all batches as one batch, parts of it, and inputs opened for gradients."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.junctions.source import tensors_of
from gradscope.problem import Batch, Problem, examples_in


def joined(problem: Problem) -> tuple[Batch, list[int]]:
    """All batches as one, and the number of examples in each.

    Raises:
        ValueError: Batches that cannot be put behind each other.
    """
    batches = list(problem.batches())
    sizes = [examples_in(inputs) for inputs, _ in batches]
    if len(batches) == 1:
        return batches[0], sizes
    try:
        targets = (
            None
            if any(t is None for _, t in batches)
            else torch.cat([t for _, t in batches if t is not None])
        )
        return (_cat([inputs for inputs, _ in batches], sizes), targets), sizes
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            "layer_grams compares examples of all batches, so these have to be alike but for the first axis: "
            f"{error}. Pad them to one length, or pass one batch."
        ) from error


def _cat(inputs: Sequence[Any], sizes: Sequence[int], name: str = "") -> Any:
    first = inputs[0]
    if isinstance(first, Tensor):
        counts = all(value.ndim and len(value) == size for value, size in zip(inputs, sizes, strict=True))
        return torch.cat(list(inputs)) if counts and not _of_positions(first, name) else first
    if isinstance(first, Mapping):
        return {key: _cat([value[key] for value in inputs], sizes, str(key)) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(_cat(list(parts), sizes, name) for parts in zip(*inputs, strict=True))
    return first


def _of_positions(tensor: Tensor, name: str) -> bool:
    """Whether this counts positions, by its name, so that its length is that of examples by chance only."""
    return tensor.ndim == 1 and "position" in name


def chosen(batch: Batch, examples: Tensor, total: int) -> Batch:
    """Some examples of a batch of `total`, by their numbers."""

    def pick(tensor: Tensor, name: str = "") -> Tensor:
        counts = tensor.ndim and len(tensor) == total and not _of_positions(tensor, name)
        return tensor[examples.to(tensor.device)] if counts else tensor

    inputs, targets = batch
    return mapped(inputs, pick, named=True), None if targets is None else pick(targets)


def opened(inputs: Any, examples: int, channels_last: bool = False) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Inputs whose floating-point tensors need gradients, these leaves, and the integer tensors.

    By the leaves the graph tells what depends on examples. The network gets copies, which it may change in place.
    Masks stay constants, for attention takes a slower way where a mask needs a gradient.

    Args:
        inputs: Of one batch.
        examples: Their number.
        channels_last: Lay images out with channels last, in which convolutions and their Grams are faster.
    """
    sources: list[Tensor] = []

    def opening(tensor: Tensor, name: str) -> Tensor:
        if not tensor.is_floating_point() or "mask" in name or not tensor.ndim or len(tensor) != examples:
            return tensor.clone()
        leaf = (tensor.clone() if tensor.is_inference() else tensor).detach().requires_grad_()
        sources.append(leaf)
        images = channels_last and leaf.ndim == 4
        return leaf.clone(memory_format=torch.channels_last if images else torch.preserve_format)

    placed = mapped(inputs, opening, named=True)
    integers = [tensor for tensor in tensors_of(placed) if not tensor.is_floating_point()]
    return placed, sources, integers


def mapped(structure: Any, change: Callable[..., Tensor], named: bool = False, name: str = "") -> Any:
    """Nested tuples, lists and dicts with every tensor changed; `named` hands over the innermost key as well."""
    if isinstance(structure, Tensor):
        return change(structure, name) if named else change(structure)
    if isinstance(structure, Mapping):
        return {key: mapped(value, change, named, str(key)) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        parts = [mapped(value, change, named, name) for value in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    return structure
