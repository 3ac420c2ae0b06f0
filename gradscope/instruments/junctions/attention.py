"""Which residual branches attend: does a way through them pass the weighted mean that a softmax makes?"""

import re
from collections.abc import Collection, Mapping, Sequence

from gradscope.instruments.junctions.finder import Found
from gradscope.instruments.junctions.graph import Graph, Node

_ATTENTION = re.compile(r"attention|attn|fmha", re.IGNORECASE)
_SOFTMAX = re.compile(r"^(Safe)?Softmax")
# Over an axis: a softmax that scales, as in a router or over the kernels of a layer, multiplies entry by entry.
_PRODUCTS = re.compile(r"^(Bmm|Baddbmm|Mm|Addmm|Addbmm|Mv|Addmv)")


def attention_nodes(graph: Graph) -> set[Node]:
    """The nodes at which values are averaged with weights from a softmax, fused or written out.

    Written out, that is a matrix product of two values computed from the input, one of which is a softmax that
    was dropped out, masked, reshaped or mixed over the heads since. Attention without a softmax cannot be told from
    other products.
    """
    weights: set[Node] = set()
    found: set[Node] = set()
    for node in graph.order:
        name = node.name()
        operands = [operand for _, operand in graph.operands(node)]
        if _ATTENTION.search(name):
            found.add(node)
        elif _SOFTMAX.match(name) or (len(operands) == 1 and operands[0] in weights):
            weights.add(node)
        elif len(operands) == 2 and not weights.isdisjoint(operands) and _PRODUCTS.match(name):
            found.add(node)
    return found


def attending(
    graph: Graph, found: Sequence[Found], fed: Mapping[Node, Collection[Node]]
) -> tuple[tuple[bool, ...], ...]:
    """Per junction, per crossing, whether some way from the fork to that branch's end passes attention.

    Args:
        graph: The graph of the junctions.
        found: The junctions.
        fed: For junctions whose fork is not live, the live nodes that this fork feeds before the sum.
    """
    nodes = attention_nodes(graph)
    if not nodes:
        return tuple((False,) * len(junction.crossings) for junction in found)
    passes = graph.passing(nodes)

    def attends(junction: Found, edges: Sequence[tuple[Node, int]]) -> bool:
        if junction.node in fed:
            return not nodes.isdisjoint(fed[junction.node])
        ends = [graph.inputs[node][slot][0] for node, slot in edges]
        return any(passes(junction.fork, end) for end in ends if end in graph.position)

    return tuple(tuple(attends(junction, edges) for edges in junction.crossings) for junction in found)
