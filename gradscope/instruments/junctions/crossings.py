"""At which edges of the graph a gradient crosses a residual branch, and by which ones it passes without."""

from collections.abc import Sequence

from gradscope.instruments.junctions.graph import Node
from gradscope.instruments.junctions.junction import Edge
from gradscope.instruments.junctions.summands import Summand, Sums

Edges = tuple[Edge, ...]


def crossings_of_sum(
    branches: Sequence[Summand], skips: Sequence[Summand]
) -> tuple[tuple[Edges, ...], Edges]:
    """Crossings and carries of a sum with a skip: one crossing for each branch operand, in order.

    What the sum itself multiplies the branch by, such as the weights of `addmm`, belongs to the branch.
    """
    return tuple(_with_factors(term) for term in branches), tuple(
        edge for term in skips for edge in term.edges
    )


def crossings_of_gate(
    sums: Sums, node: Node, terms: Sequence[Summand], fork: Node
) -> tuple[tuple[Edges, ...], Edges]:
    """Crossings and carries of a gated sum T H(h) + C h: one crossing of all edges but the one that leads to h.

    The gradient that reaches h times the gate C has crossed nothing. What reaches it by T H, or through the gate C,
    which is computed from h as well, has crossed the branch. Where it cannot be told which operand is carried, as in
    h A(h) + h B(h), there are no crossings.
    """
    mixed = sums.mixes(node)
    factors = [term.edges[: not term.is_product] if mixed else _factors(sums, term) for term in terms]
    carried = [[edge for edge in edges if sums.value(edge) is fork] for edges in factors]
    carriers = [place for place, edges in enumerate(carried) if edges]
    if len(carriers) != 1 or len(carried[carriers[0]]) != 1:
        return (), ()
    ((carry,),) = (carried[place] for place in carriers)
    gate = [edge for edge in factors[carriers[0]] if edge != carry]
    if mixed:
        gate.append(Edge(node, 2))
    branch = [
        edge for place, term in enumerate(terms) if place != carriers[0] for edge in _with_factors(term)
    ]
    return (tuple(dict.fromkeys([*branch, *gate])),), (carry,)


def _with_factors(term: Summand) -> Edges:
    """The edges of a term, and those of what its operation multiplies it by, be it live or not."""
    node, first = term.edges[0]
    if term.is_product:
        return tuple(Edge(node, slot) for slot in _slots(node) if slot > 0)
    if node.name().startswith("Lerp"):
        return (Edge(node, first), *(Edge(node, slot) for slot in _slots(node) if slot == 2))
    return term.edges


def _factors(sums: Sums, term: Summand) -> Edges:
    """The edges at which the factors of a product enter, if only the sum consumes that product."""
    if term.is_product:
        return _with_factors(term)
    edge = term.edges[0]
    product = sums.value(edge)
    node = sums.graph.inputs[edge.node][edge.slot][0]
    while sums.graph.consumers[node] == 1:
        if node is product:
            return tuple(Edge(product, slot) for slot in _slots(product))
        node = sums.graph.operands(node)[0][1]
    return ()


def _slots(node: Node) -> list[int]:
    return [slot for slot, (operand, _) in enumerate(node.next_functions) if operand is not None]
