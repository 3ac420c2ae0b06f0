"""What a gate does to a stack of cotangents: it moves rows to other keys, and multiplies them."""

import itertools
import math
from collections.abc import Iterable

from torch import Tensor

from gradscope.gradients.engines.stack import Row, Stack, add
from gradscope.instruments.gates.polynomial import Gate, Index, Powers


class Keys:
    """Numbers for the coefficients of some members, and for the ungated gradient.

    Attributes:
        members: Numbers of the runs with factors of their own.
        ungated: The key of the gradient that no gate changes, or None.
        exponents: For a key, the power of two by which its rows are lifted; 0 if missing.
    """

    def __init__(self, powers: Powers, members: Iterable[int], ungated: bool) -> None:
        self.powers = powers
        self.members = tuple(members)
        self.indices = tuple(powers.indices())
        sizes = [*powers.shape[1:], 1]
        self._strides = [math.prod(sizes[place:]) for place in range(len(powers.shape))]
        self.ungated = len(self.members) * len(self.indices) if ungated else None
        self.exponents: dict[int, int] = {}

    def first(self) -> tuple[int, ...]:
        """Those that begin at the loss: coefficient 0 of each member, and the ungated one."""
        starts = range(0, len(self.members) * len(self.indices), len(self.indices))
        return (*starts, *(() if self.ungated is None else (self.ungated,)))

    def of(self, key: int) -> tuple[int, Index]:
        """The member's number and the coefficient's."""
        member, index = divmod(key, len(self.indices))
        return self.members[member], self.indices[index]

    def crossed(self, stack: Stack, gate: Gate) -> Stack | None:
        """The stack behind a gate; None if nothing passes."""
        stays: list[Row] = []
        moved: list[Row] = []
        for row, key in enumerate(stack.keys):
            if key == self.ungated:
                stays.append((key, row, 1.0))
                continue
            member, index = self.of(key)
            factor = gate.of(member)
            if factor and (gate.constant or gate.variable is None):
                weight = factor * gate.constant
                if weight:
                    stays.append((key, row, weight))
            if (
                factor
                and gate.variable is not None
                and index[gate.variable] < self.powers.degrees[gate.variable]
            ):
                higher = key + self._strides[gate.variable]
                moved.append((higher, row, factor * self._lift(key, higher)))
        if not gate.constant or gate.variable is None:
            return stack.rows(sorted(itertools.chain(moved, stays)))
        below, above = stack.shared().rows(stays), stack.shared().rows(moved)
        if below is None or above is None:
            return below or above
        return add(below, above)

    def _lift(self, key: int, above: int) -> float:
        """A row of a key that no row had before keeps its exponent; others take that of their new key."""
        before = self.exponents.get(key, 0)
        return math.ldexp(1.0, self.exponents.setdefault(above, before) - before)

    def lowered(self, key: int, row: Tensor) -> Tensor:
        """A row without the power of two, in float64."""
        row, exponent = row.double(), self.exponents.get(key, 0)
        # In two steps, for a power of two beyond float64's own range may bring a row back into it.
        half = exponent // 2
        return row * math.ldexp(1.0, -half) * math.ldexp(1.0, half - exponent) if exponent else row
