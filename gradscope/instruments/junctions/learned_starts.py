"""Streams that begin at a learned value: class tokens, latents and queries that read the input in a residual branch.

In p + f(p, x), p a function of parameters alone, autograd shows one live operand, as for a bias. What tells the two
apart is the ancestor test on the graph with its parameters: p also feeds the branch, it has the shape of the sum,
and every way from it leads through this sum, for here its stream begins.
"""

from collections.abc import Mapping

from gradscope.instruments.junctions.finder import Found
from gradscope.instruments.junctions.graph import Graph, Node
from gradscope.instruments.junctions.junction import Edge
from gradscope.instruments.junctions.summands import shape_of


def learned_starts(graph: Graph) -> list[tuple[Found, set[Node]]]:
    """The residual sums whose skip is a learned value, each with the live nodes that this value feeds before them."""
    asked = [node for node in graph.order if node.name().startswith(("AddBackward", "SubBackward"))]
    sums = {node: edges for node in asked if (edges := _one_learned(graph, node)) is not None}
    if not sums:
        return []
    place = {node: number for number, node in enumerate(graph.everything)}
    consumers: dict[Node, list[Node]] = {node: [] for node in graph.everything}
    for node in graph.everything:
        for operand, _ in node.next_functions:
            if operand is not None:
                consumers[operand].append(node)
    results = []
    for node, (skip, branch) in sums.items():
        fed = _fed_before(skip.node.next_functions[skip.slot][0], node, consumers, place)
        end = branch.node.next_functions[branch.slot][0]
        if fed is None or end not in fed or not graph.has_any_weights(fed):
            continue
        live = {inside for inside in fed if inside in graph.position}
        found = Found(node, "identity", (branch,), (skip,), None, (end,), (branch,), ((branch,),), (skip,))
        results.append((found, live))
    return results


def _one_learned(graph: Graph, node: Node) -> tuple[Edge, Edge] | None:
    """Edges of a skip that is computed from parameters alone, and of the branch; None for any other sum."""
    operands = node.next_functions
    if (
        len(operands) != 2
        or any(operand is None for operand, _ in operands)
        or len(graph.operands(node)) != 1
    ):
        return None
    ((live, _),) = graph.operands(node)
    learned = 1 - live
    if shape_of(*operands[learned]) != shape_of(node):
        return None
    return Edge(node, learned), Edge(node, live)


def _fed_before(
    start: Node, end: Node, consumers: Mapping[Node, list[Node]], place: Mapping[Node, int]
) -> set[Node] | None:
    """What `start` feeds before `end`; None if a way from it leads around `end`."""
    fed: set[Node] = set()
    stack = [start]
    while stack:
        for node in consumers[stack.pop()]:
            if node is end or node in fed:
                continue
            if place[node] > place[end]:
                return None
            fed.add(node)
            stack.append(node)
    return fed
