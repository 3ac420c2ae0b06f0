"""What a rule for one node of an autograd graph has to say."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.curvature.gradient_graph import as_it_is
from gradscope.instruments.junctions.graph import Node

if TYPE_CHECKING:
    from gradscope.curvature.r_operator.sums import Into

# None or a tensor, by operand.
Tangents = Sequence[Any]


class NoRule(Exception):
    """A graph that the R-operator cannot follow, with the reason; double backward can."""


class Rule(ABC):
    """How tangents cross one node on the way up, and tangents of cotangents on the way down.

    A subclass reads in `__init__` what the node saved, and may replace it in `settle` by what products need. A
    tangent of None is zero.

    Args:
        node: The node. Its saved tensors are freed before the first product.
        wanted: For each operand whether it depends on the chosen parameters.

    Attributes:
        bends: Whether the tangent of the backward pass depends on the operands' tangents. Only then the
            node's cotangent is kept, as `saved["cotangent"]`.
        several: Whether the node has several results, so that what moves at them is a list.
        saved: Tensors that are kept between products, by name.
    """

    bends = True
    several = False

    def __init__(self, node: Node, wanted: Sequence[bool]) -> None:
        self.wanted = list(wanted)
        self.shape = torch.Size(node._input_metadata[0].shape)
        self.saved: dict[str, Tensor] = {}

    def settle(self) -> None:  # noqa: B027  (most keep what the node saved)
        """Turn what the node saved into what products need; called once, after the backward pass."""

    @abstractmethod
    def forward(self, tangents: Tangents, spare: Sequence[bool]) -> Any:
        """The tangent of the node's result, from those of its operands, one of which at least is not None.

        A tangent that is spare may be written over.
        """

    @abstractmethod
    def backward(self, moving: Any, tangents: Tangents, into: "Into") -> None:
        """Hand tangents of cotangents on to the operands.

        Args:
            moving: That of the result, or None.
            tangents: Of the operands, where the rule `bends`.
            into: Takes the results.
        """


def saved(node: Node, name: str) -> Tensor | None:
    """A tensor that the node saved, without its history.

    Raises:
        NoRule: It would be computed anew when read, or was written over.
    """
    hook = getattr(getattr(node, f"_raw_saved_{name}"), "unpack_hook", None)
    if hook is not None and hook is not as_it_is:
        raise NoRule(f"{node.name()} has hooks on what it saved, as checkpoints do")
    try:
        found = getattr(node, f"_saved_{name}")
    except RuntimeError as error:
        raise NoRule(f"{node.name()} says: {str(error).splitlines()[0]}") from error
    return None if found is None else found.detach()


def present(node: Node, *names: str) -> dict[str, Tensor]:
    """Those of the named tensors that the node saved."""
    found = {name: saved(node, name) for name in names}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def operand_shape(node: Node, slot: int) -> torch.Size:
    """The shape of an operand that has a node."""
    operand, number = node.next_functions[slot]
    return torch.Size(operand._input_metadata[number].shape)


def signed(number: int) -> int:
    """An axis or index, which torch shows as an unsigned number of 64 bits."""
    return number - 2**64 if number >= 2**63 else number


def all_signed(numbers: Sequence[int]) -> list[int]:
    return [signed(number) for number in numbers]
