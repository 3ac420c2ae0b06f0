"""Where the tangents of cotangents add up."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Sums:
    """One sum for each place of the graph, made when its first term arrives.

    Args:
        shapes: Of the places.
    """

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self.shapes = shapes
        self.values: list[Tensor | None] = [None] * len(shapes)
        self.own = [False] * len(shapes)

    def bind(self, place: int, total: Tensor) -> None:
        """Add to `total` itself what arrives at a place."""
        self.values[place], self.own[place] = total, True

    def at(self, place: int) -> Tensor:
        """The sum at a place that is bound."""
        value = self.values[place]
        if value is None:
            raise ValueError(f"Nothing is bound to place {place}.")
        return value

    def take(self, place: int) -> tuple[Tensor | None, bool]:
        """What has arrived, and whether it may be written over."""
        value, self.values[place] = self.values[place], None
        return value, self.own[place]

    def add(self, place: int, term: Tensor, own: bool) -> None:
        if term.shape != self.shapes[place]:
            term, own = term.sum_to_size(self.shapes[place]), False
        before = self.values[place]
        if before is None:
            self.values[place], self.own[place] = term, own
        elif self.own[place]:
            before.add_(term)
        else:
            self.values[place], self.own[place] = before + term, True

    def add_product(self, place: int, first: Tensor, second: Tensor) -> None:
        """Add a product of matrices, or one of each pair in a batch, without an intermediate result."""
        before = self.values[place]
        if before is None:
            self.values[place] = first @ second
        elif self.own[place]:
            (before.addmm_ if first.ndim == 2 else before.baddbmm_)(first, second)
        else:
            self.values[place] = before + first @ second
        self.own[place] = True


class Into:
    """The operands of one node, by slot, on the way down.

    Attributes:
        spare: Whether the tangent of the result's cotangent may be written over.
    """

    def __init__(self, sums: Sums, places: Sequence[int | None], spare: bool) -> None:
        self._sums = sums
        self._places = places
        self.spare = spare

    def wants(self, slot: int) -> bool:
        return slot < len(self._places) and self._places[slot] is not None

    def add(self, slot: int, term: Tensor, own: bool = True) -> None:
        """Add a term, broadcast or not; `own` says that nobody else holds it."""
        place = self._places[slot] if slot < len(self._places) else None
        if place is not None:
            self._sums.add(place, term, own)

    def add_product(self, slot: int, first: Tensor, second: Tensor) -> None:
        place = self._places[slot]
        if place is not None:
            self._sums.add_product(place, first, second)


def is_own(made: Tensor, given: Sequence[Tensor | None], spare: Sequence[bool]) -> bool:
    """Whether nobody else holds the memory of what was made of `given`."""
    if 0 in made.stride():
        return False
    memory = made.untyped_storage().data_ptr()
    return all(
        free or one is None or one.untyped_storage().data_ptr() != memory
        for one, free in zip(given, spare, strict=True)
    )
