"""Places in an autograd graph at which gradients are taken, and how they follow from one another."""

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradscope.instruments.junctions.graph import Node

# What hands on the values it is given, perhaps in another order or precision.
_MOVES = (
    *("Clone", "ToCopy", "Alias", "View", "UnsafeView", "ReshapeAlias"),
    *("Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Expand"),
)


def edge_of(tensor: Tensor) -> GradientEdge | None:
    """Where the gradient at a tensor is found even if it is changed in place later; None off the graph."""
    return get_gradient_edge(tensor) if tensor.requires_grad else None


def copied_from(edge: GradientEdge) -> Iterator[GradientEdge]:
    """The value at an edge, what it is a copy of, what that is a copy of, ...; a sum with a constant is one.

    So are reshaped values and those of another dtype. Python's `sum` begins with 0 + x.
    """
    yield edge
    while True:
        node = edge.node
        operation = node.name().partition("Backward")[0]
        parents = [(n, place) for n, place in node.next_functions if n is not None and not _is_parameter(n)]
        if len(parents) != 1 or operation not in (*_MOVES, "Add"):
            return
        edge = GradientEdge(*parents[0])
        yield edge


def fork_of(skip: GradientEdge, branches: Sequence[GradientEdge]) -> GradientEdge:
    """The value of which a skip is a copy and from which the branches part.

    The furthest one that a branch reads without one of its copies; the skip itself if no branch reads any.
    """
    copies = list(copied_from(skip))
    if len(copies) == 1:
        return skip
    nodes = {copy.node for copy in copies}
    read = {node for branch in branches for node in _first_met(branch.node, nodes)}
    return next((copy for copy in reversed(copies) if copy.node in read), skip)


def derives(edge: GradientEdge, origin: GradientEdge, past: Collection[Node] = ()) -> bool:
    """Whether a way leads from `origin` to `edge` that meets none of the nodes `past` on it."""
    return origin.node in _first_met(edge.node, {origin.node, *past})


def same_place(first: GradientEdge | None, second: GradientEdge | None) -> bool:
    """Whether two edges are of one value."""
    if first is None or second is None:
        return False
    return first.node is second.node and first.output_nr == second.output_nr


def _first_met(start: Node, stops: Collection[Node]) -> set[Node]:
    """The nodes of `stops` that ways towards the inputs meet before any other of them."""
    met, waiting, seen = set(), [start], {start}
    for node in waiting:
        if node in stops:
            met.add(node)
            continue
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return met


def _is_parameter(node: Node) -> bool:
    return node.name().endswith("AccumulateGrad")
