"""Where the examples of a batch lie in a tensor."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """One axis counts the examples, perhaps folded together with others.

    Attributes:
        examples: Their number B.
        axis: The axis, of size before * B * after; row (i * B + b) * after + j belongs to example b.
        before: Numbers that run slower than the examples (windows, or time steps, flattened before them).
        after: Numbers that run faster (tokens flattened behind the examples).
    """

    examples: int
    axis: int
    before: int = 1
    after: int = 1

    @property
    def size(self) -> int:
        return self.before * self.examples * self.after

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape can lie so."""
        return 0 <= self.axis < len(shape) and shape[self.axis] == self.size

    def by_example(self, tensor: Tensor) -> Tensor:
        """[..., before * B * after, ...] as [B, ..., before * after, ...]: one axis more, examples first."""
        if self.before == 1 and self.axis == 0:
            return tensor.unflatten(0, (self.examples, self.after))
        folded = tensor.unflatten(self.axis, (self.before, self.examples, self.after))
        return folded.movedim(self.axis + 1, 0).flatten(self.axis + 1, self.axis + 2)

    def of_example(self, tensor: Tensor, example: int) -> Tensor:
        """A copy in which all other examples' numbers are zero."""
        return self.of_examples(tensor, example)

    def of_examples(self, tensor: Tensor, examples: Tensor | int) -> Tensor:
        """The same for several, by their numbers."""
        shape = (self.before, self.examples, self.after)
        only = tensor.new_zeros(tensor.shape)
        chosen = (slice(None),) * (self.axis + 1) + (examples,)
        only.unflatten(self.axis, shape)[chosen] = tensor.unflatten(self.axis, shape)[chosen]
        return only

    def viewed(self, old: Sequence[int], new: Sequence[int]) -> "Layout | None":
        """The layout after a view of shape `old` as `new`; None if it tears examples apart."""
        outer = math.prod(old[: self.axis]) * self.before
        inner = math.prod(old[self.axis + 1 :]) * self.after
        slower = 1
        for axis, size in enumerate(new):
            faster = math.prod(new[axis + 1 :])
            if size % self.examples == 0 and outer % slower == 0 and inner % max(faster, 1) == 0:
                moved = Layout(self.examples, axis, outer // slower, inner // max(faster, 1))
                if moved.size == size:
                    return moved
            slower *= size
        return None

    def moved(self, axis: int) -> "Layout":
        return self._replace(axis=axis)
