"""What a residual addition is called, and where it lies in one forward pass and its graph."""

from dataclasses import dataclass
from typing import NamedTuple

from gradscope.instruments.graph import Node


@dataclass(frozen=True)
class Junction:
    """A residual addition in a forward pass.

    Attributes:
        name: Innermost module running, and the ordinal of the addition within it: `layer1.0:0`.
        kind: `identity` (one operand feeds all others), `projection` (the skip is a linear map with
            weights), `nonparam-skip` (the skip is reshaped, padded or pooled without weights),
            `gated` (two products, as in highway networks), `branches` (several weighted operands
            that meet again, Inception style: no skip among them).
        level: Nesting: 0 unless the addition lies inside another junction's branch.
        shape: Shape of the sum.
        index: Place in the forward pass among the junctions, from 0.
        branches: Operands that are residual branches, as (number of the addition, slot).
        skips: The other operands, likewise.
        additions: How many additions of two tensors that forward called; a lesion compares it, to notice
            that the numbers above no longer hold.
        number: Number of the addition whose result is the sum; None where it was not called from Python.
    """

    name: str
    kind: str
    level: int
    shape: tuple[int, ...]
    index: int
    branches: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, int], ...]
    additions: int
    number: int | None = None

    @property
    def graded(self) -> bool:
        """Whether path lengths are defined here: a skip exists and crossing it counts nothing."""
        return self.kind in ("identity", "projection", "nonparam-skip")


class Edge(NamedTuple):
    """Operand `slot` of an addition's node in one particular autograd graph."""

    node: Node
    slot: int
