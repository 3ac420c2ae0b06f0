"""How deep junctions lie inside each other's branches."""

from collections.abc import Collection, Mapping, Sequence

from gradscope.instruments.junctions.finder import Found
from gradscope.instruments.junctions.graph import Graph, Node


def levels(graph: Graph, found: Sequence[Found], fed: Mapping[Node, Collection[Node]]) -> list[int]:
    """For each junction, inside the branches of how many others it lies.

    A junction lies in a branch if a way from that branch's fork to its end passes it. A sum is not counted as lying
    inside concatenations: nothing is added there, and the blocks below a U-Net's long skip keep their level.

    One bit for each junction travels down from the forks, and one up from the ends, so the cost grows with the graph
    and not with how often its parts are enclosed.

    Args:
        graph: The graph of the junctions.
        found: The junctions.
        fed: For junctions whose fork is not live, the live nodes that this fork feeds before the sum.
    """
    forks: dict[Node, int] = {}
    ends: dict[Node, int] = {}
    everywhere = sums = 0
    for number, junction in enumerate(found):
        bit = 1 << number
        sums |= bit if junction.kind != "concat" else 0
        for node in fed.get(junction.node, ()):
            forks[node] = forks.get(node, 0) | bit
        if junction.fork is not None:
            forks[junction.fork] = forks.get(junction.fork, 0) | bit
        elif junction.node not in fed:
            everywhere |= bit
        for node in junction.ends:
            ends[node] = ends.get(node, 0) | bit
    wanted = {junction.node for junction in found}
    behind = _below_forks(graph, forks, wanted)
    before = _above_ends(graph, ends, wanted)
    return [
        ((behind[j.node] | everywhere) & before[j.node] & (-1 if j.kind == "concat" else sums)).bit_count()
        for j in found
    ]


def _below_forks(graph: Graph, forks: Mapping[Node, int], wanted: set[Node]) -> dict[Node, int]:
    """Per wanted node, the junctions whose forks feed it."""
    below: dict[Node, int] = {}
    waiting = dict(graph.consumers)
    for node in graph.order:
        bits = 0
        for _, operand in graph.operands(node):
            bits |= below[operand] | forks.get(operand, 0)
            waiting[operand] -= 1
            if not waiting[operand] and operand not in wanted:
                del below[operand]
        below[node] = bits
    return below


def _above_ends(graph: Graph, ends: Mapping[Node, int], wanted: set[Node]) -> dict[Node, int]:
    """Per wanted node, the junctions with a branch that it feeds or ends."""
    above: dict[Node, int] = {}
    for node in reversed(graph.order):
        bits = above.get(node, 0) | ends.get(node, 0)
        for _, operand in graph.operands(node):
            above[operand] = above.get(operand, 0) | bits
        if node in wanted:
            above[node] = bits
        else:
            above.pop(node, None)
    return above
