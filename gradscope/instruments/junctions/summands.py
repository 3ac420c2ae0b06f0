"""What the nodes of an autograd graph add up: the operands of additions, also of fused ones."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from gradscope.instruments.junctions.calls import AddCall
from gradscope.instruments.junctions.graph import PRODUCTS, Graph, Node, takes_parameter
from gradscope.instruments.junctions.junction import Edge

_SUMS = ("add", "sub", "rsub")
# These add to their first operand a product (or a quotient) of the two others.
_WITH_PRODUCT = ("addmm", "sparseaddmm", "addmv", "addr", "addbmm", "baddbmm", "addcmul", "addcdiv")


class Summand(NamedTuple):
    """One term of a sum.

    Attributes:
        edges: Its live operands: one, or both factors where the operation itself multiplies.
        is_product: Whether the operation itself multiplies before it adds.
    """

    edges: tuple[Edge, ...]
    is_product: bool = False


class Sums:
    """The sums of one graph.

    Args:
        graph: The graph.
        called: Calls by node, which tell in-place additions to a view from other writes into one.
        starts: Sums with one live operand whose other is no constant but a stream's beginning.
    """

    def __init__(self, graph: Graph, called: Mapping[Node, AddCall], starts: Collection[Node] = ()) -> None:
        self.graph = graph
        self._starts = starts
        self._called = called
        self._known: dict[Node, tuple[Summand, ...]] = {}

    def of(self, node: Node) -> tuple[Summand, ...]:
        """The live terms of a node that adds at least two of them; empty for every other node."""
        if node not in self._known:
            found = self._summands(node)
            self._known[node] = found if len(found) > 1 else ()
        return self._known[node]

    def mixes(self, node: Node) -> bool:
        """Whether this is a `lerp` whose weight is computed from the input: (1 - t) x + t y."""
        return self.operation(node) == "lerp" and any(slot == 2 for slot, _ in self.graph.operands(node))

    def value(self, edge: Edge) -> Node:
        """The operand at an edge, without what leaves it the `same`."""
        return self.same(self.graph.inputs[edge.node][edge.slot][0])

    def same(self, node: Node) -> Node:
        """What a node copies, or adds a constant to (Python's `sum` begins with 0 + x); else the node itself."""
        while (
            node in self.graph.position
            and self.operation(node) in ("add", "clone")
            and node not in self._starts
            and len(operands := self.graph.operands(node)) == 1
        ):
            node = operands[0][1]
        return node

    def values(self, term: Summand) -> list[Node]:
        """The operands of a term."""
        return [self.value(edge) for edge in term.edges]

    def has_weights(self, fork: Node | None, term: Summand) -> bool:
        """Whether weights lie between `fork` and a term, those of its own product included."""
        if term.is_product:
            node = term.edges[0].node
            if PRODUCTS.match(node.name()) or takes_parameter(node):
                return True
        return any(self.graph.has_weights(fork, value) for value in self._fed(fork, term))

    def is_linear(self, fork: Node | None, term: Summand) -> bool:
        """Whether a term is a linear function of `fork` as far as is known."""
        return len(term.edges) == 1 and self.graph.is_linear(fork, self.value(term.edges[0]))

    def is_fed(self, fork: Node, term: Summand) -> bool:
        """Whether `fork` feeds a term."""
        return bool(self._fed(fork, term))

    def operation(self, node: Node) -> str:
        """`add` for AddBackward0 and for an in-place addition to a view; `sum` for SumBackward1."""
        call = self._called.get(node)
        name = node.name()
        if call is not None and name.endswith("CopySlices"):
            return call.operation
        return name.rpartition("Backward")[0].lower()

    def _fed(self, fork: Node | None, term: Summand) -> list[Node]:
        return [v for v in self.values(term) if fork is None or self.graph.feeds(fork, v)]

    def _summands(self, node: Node) -> tuple[Summand, ...]:
        operation = self.operation(node)
        edges = [Edge(node, slot) for slot, _ in self.graph.operands(node)]
        if operation in _SUMS:
            return tuple(Summand((edge,)) for edge in edges)
        if operation == "lerp":
            return tuple(Summand((edge,)) for edge in edges if edge.slot < 2)
        if operation in _WITH_PRODUCT:
            factors = tuple(edge for edge in edges if edge.slot > 0)
            alone = tuple(Summand((edge,)) for edge in edges if edge.slot == 0)
            return (*alone, Summand(factors, True)) if factors else alone
        if operation in ("sum", "mean") and edges:
            return self._stacked(node, self.graph.operands(node)[0][1])
        return ()

    def _stacked(self, node: Node, stack: Node) -> tuple[Summand, ...]:
        """`stack(...).sum(dim)`: the terms are the operands of the stack, if it is summed where it was stacked."""
        summed = getattr(node, "_saved_dim", None)
        if (
            self.operation(stack) != "stack"
            or self.graph.consumers[stack] != 1
            or not isinstance(summed, tuple)
        ):
            return ()
        dimensions = len(shape_of(stack))
        # Autograd keeps a negative dimension as an unsigned number of 64 bits.
        places = [_signed(dim) % dimensions for dim in (*summed, stack._saved_dim)]
        if len(places) != 2 or places[0] != places[1]:
            return ()
        return tuple(Summand((Edge(stack, slot),)) for slot, _ in self.graph.operands(stack))


def shape_of(node: Node, place: int = 0) -> tuple[int, ...]:
    """Shape of a node's value."""
    variable = getattr(node, "variable", None)
    shape = node._input_metadata[place].shape if variable is None else variable.shape
    return tuple(int(size) for size in shape)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
