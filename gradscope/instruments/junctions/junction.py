"""What a residual addition is called, and where it lies in one forward pass and its graph."""

from dataclasses import dataclass
from typing import NamedTuple

from gradscope.instruments.junctions.graph import Node


@dataclass(frozen=True)
class Junction:
    """A residual addition, or a concatenation of a value with what was computed from it, in a forward pass.

    Attributes:
        name: Innermost module running, and the ordinal of the junction within it: `layer1.0:0`.
        kind: `identity` (one operand feeds all others; it may be scaled in the sum, as by `lerp`), `projection`
            (the skip is a linear map with weights), `nonparam-skip` (the skip is reshaped, padded or pooled
            without weights; or several operands have none, as in h + P h + F, and all of them are the skip), `gated`
            (two products, as in highway networks: T H + (1 - T) h; written as h + T (H - h), the same layer is
            `identity` and its branch all of T (H - h)), `branches` (several weighted operands that meet again,
            Inception style: no skip among them), `concat` (one operand, or what it is a piece of, feeds all
            others: DenseNet, U-Net, ShuffleNet).
        level: Nesting: 0 unless the junction lies inside another one's branch. Additions are not counted as
            lying inside concatenations.
        shape: Shape of the sum or concatenation.
        index: Place in the forward pass among the junctions, from 0.
        branches: Operands that are residual branches, as (number of the addition, slot); of a product inside the
            sum, such as that of `addmm`, one factor. A `concat` lists every place at which the branch is
            concatenated, so that closing them deletes the layer it comes from.
        skips: The other operands, likewise; of kind `nonparam-skip` there may be several.
        additions: How many additions (`junctions.calls`) that forward called; a lesion compares it, to notice
            that the numbers above no longer hold.
        number: Number of the addition that makes the sum (the outermost of several; of a sum over a stack, the
            stack); None where it was not called from Python.
        counted: Whether it can be told of every way through the junction whether it crosses a branch, so that
            path lengths can count it: all `graded` kinds, `gated` if one of the operands is carried, and `concat`
            if something is concatenated besides the skip and residual sums that continue it.
        outermost: Whether it is `counted` and lies in no branch of another counted junction, whatever lies around
            both: what path lengths count unless told otherwise.
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
    counted: bool = False
    outermost: bool = False

    @property
    def graded(self) -> bool:
        """Whether it is a sum with a skip, which closing all branches leaves; `counted` says where lengths count."""
        return self.kind in ("identity", "projection", "nonparam-skip")


class Edge(NamedTuple):
    """Operand `slot` of an addition's node in one particular autograd graph."""

    node: Node
    slot: int
