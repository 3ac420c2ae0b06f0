"""Several cotangents of one tensor side by side: the coefficients of a polynomial that are not zero."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Row = tuple[int, int, float]
_Run = tuple[int, int | None, int | None, int]


@dataclass
class Stack:
    """Cotangents of one tensor, one for each key.

    Attributes:
        keys: What each row is the coefficient of, ascending; a key that is missing has the cotangent zero.
        values: [keys, *shape].
        scale: What every row is still to be multiplied by, [*shape] or a scalar. Layers that act on each number
            alone change this one tensor instead of every row.
        own: Whether nobody else holds these numbers, so that they may be overwritten.
    """

    keys: tuple[int, ...]
    values: Tensor
    scale: Tensor | None = None
    own: bool = False

    def settled(self) -> Tensor:
        """The rows with the scale multiplied in, [keys, *shape]."""
        if self.scale is not None:
            scale = _laid_out_like(self.scale, self.values)
            self.values = self.values.mul_(scale) if self.own else self.values * scale
            self.scale, self.own = None, True
        return self.values

    def scaled(self, factor: Tensor) -> "Stack":
        """Every row times the same numbers."""
        return Stack(self.keys, self.values, factor if self.scale is None else self.scale * factor, self.own)

    def shared(self) -> "Stack":
        """The same rows for one of several who read them."""
        return Stack(self.keys, self.settled())

    def rows(self, taken: Sequence[Row]) -> "Stack | None":
        """Rows under new keys: (key, row, factor) each; None without any."""
        if not taken:
            return None
        keys, numbers, factors = zip(*taken, strict=True)
        first, last = numbers[0], numbers[-1]
        if last - first + 1 == len(numbers):
            values = self.values.narrow(0, first, len(numbers))
        else:
            values = self.values[list(numbers)]
        if all(factor == 1 for factor in factors):
            return Stack(keys, values, self.scale, self.own)
        if len(set(factors)) == 1:
            return Stack(keys, values, self.scale, self.own).scaled(values.new_tensor(factors[0]))
        weights = values.new_tensor(factors).view(-1, *[1] * (values.ndim - 1))
        return Stack(keys, values.mul_(weights) if self.own else values * weights, self.scale, own=True)

    def spread(self, keys: tuple[int, ...]) -> Tensor:
        """The rows among those of more keys, the others zero, [keys, *shape]."""
        if keys == self.keys:
            return self.settled()
        places = {key: place for place, key in enumerate(keys)}
        spread = _empty(len(keys), self.values).zero_()
        spread[[places[key] for key in self.keys]] = self.settled()
        return spread


def add(one: Stack, other: Stack) -> Stack:
    """The sum of two stacks, of which each may have keys that the other has not; neither is to be used afterwards."""
    keys = one.keys if one.keys == other.keys else tuple(sorted({*one.keys, *other.keys}))
    # Numbers that may be overwritten come first; else those that need no further product.
    if not (one.own and one.keys == keys) and ((other.own and other.keys == keys) or other.scale is None):
        one, other = other, one
    in_place = one.own and one.keys == keys
    first = one.settled()
    scale = None if other.scale is None else _laid_out_like(other.scale, other.values)
    total = first if in_place else _empty(len(keys), first)
    for place, mine, theirs, length in _runs(keys, one.keys, other.keys):
        room = total.narrow(0, place, length)
        rows = None if theirs is None else other.values.narrow(0, theirs, length)
        if mine is None and rows is not None:
            room.copy_(rows if scale is None else rows * scale)
        elif mine is not None and rows is None:
            if not in_place:
                room.copy_(first.narrow(0, mine, length))
        elif mine is not None and rows is not None:
            if scale is None:
                torch.add(first.narrow(0, mine, length), rows, out=room)
            else:
                torch.addcmul(first.narrow(0, mine, length), rows, scale, out=room)
    return Stack(keys, total, own=True)


def _runs(keys: tuple[int, ...], one: tuple[int, ...], other: tuple[int, ...]) -> Iterator[_Run]:
    """Stretches of rows that lie side by side everywhere: place in the sum, in one and in the other, and length."""
    if one == other:
        yield 0, 0, 0, len(keys)
        return
    in_one = {key: place for place, key in enumerate(one)}
    in_other = {key: place for place, key in enumerate(other)}
    began = (0, in_one.get(keys[0]), in_other.get(keys[0]))
    for place in range(1, len(keys) + 1):
        length = place - began[0]
        here = (in_one.get(keys[place]), in_other.get(keys[place])) if place < len(keys) else (-1, -1)
        if here != tuple(None if start is None else start + length for start in began[1:]):
            yield *began, length
            began = (place, *here)


def _laid_out_like(scale: Tensor, values: Tensor) -> Tensor:
    """The same numbers in the order in which the rows have them in memory: elementwise products are slow otherwise."""
    if scale.ndim != 4 or values.ndim != 5 or not values[0].is_contiguous(memory_format=torch.channels_last):
        return scale
    return scale.contiguous(memory_format=torch.channels_last)


def _empty(rows: int, like: Tensor) -> Tensor:
    """Room for rows laid out as those of another stack."""
    row = torch.empty_like(like[0]) if len(like) else like.new_empty(like.shape[1:])
    return like.new_empty_strided((rows, *row.shape), (row.numel(), *row.stride()))
