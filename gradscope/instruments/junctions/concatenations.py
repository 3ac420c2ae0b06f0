"""Which concatenations of a graph join a value with what was computed from it (DenseNet, U-Net, ShuffleNet)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gradscope.instruments.junctions.finder import Found
from gradscope.instruments.junctions.graph import Graph, Node
from gradscope.instruments.junctions.junction import Edge

# These hand on numbers as they are, fewer of them or in another order: the skip of a U-Net may be cropped.
_MOVES = (
    *("Slice", "Split", "Unbind", "Narrow", "ConstantPad", "View", "UnsafeView", "ReshapeAlias", "Permute"),
    *("Transpose", "T0", "Unsqueeze", "Squeeze", "Clone", "Alias", "Expand"),
)

# A value: its node, and which of the node's results it is.
_Value = tuple[Node, int]


def concatenations(graph: Graph, sums: Iterable[Found]) -> list[Found]:
    """All concatenations of which one operand feeds all others, some of them through weights; operands first.

    The branches are the operands that no earlier concatenation had. One that repeats all operands of an earlier one,
    as each layer of a DenseNet does that keeps a list, counts as that one with something new beside it, so that each
    layer makes one junction. Such a layer's result is concatenated again and again; `occurrences` has all the places.

    An operand that the fork reaches by the skips of `sums` alone, as the residual half of a dual-path network, is a
    branch, but there is a way through it on which nothing is crossed: those sums count what is crossed there.

    Args:
        graph: The graph.
        sums: The residual sums in it.
    """
    skips_of = {found.node: found.carries for found in sums if found.kind in ("identity", "nonparam-skip")}
    nodes = [node for node in graph.order if node.name().startswith("CatBackward")]
    values = {node: [(slot, graph.inputs[node][slot]) for slot, _ in graph.operands(node)] for node in nodes}
    places: dict[_Value, list[Edge]] = {}
    for node in nodes:
        for slot, value in values[node]:
            places.setdefault(value, []).append(Edge(node, slot))
    results = []
    met: set[_Value] = set()
    made_of: dict[frozenset[_Value], Node] = {}
    for node in nodes:
        operands = [value for _, value in values[node]]
        repeated = made_of.get(frozenset(value for value in operands if value in met))
        new = {value for value in operands if value not in met}
        fork = repeated if repeated is not None or len(operands) < 2 else _common(graph, operands)
        if fork is not None:
            branches = {value for value in new if _is_branch(graph, fork, value[0])}
            if branches and len(branches) < len(operands):
                skips = tuple(Edge(node, slot) for slot, value in values[node] if value not in branches)
                again = tuple(edge for value in operands if value in branches for edge in places[value])
                ends = tuple(value[0] for value in operands if value in branches)
                crossed = {v for v in branches if not _is_carried(graph, fork, v[0], skips_of)}
                crossings = tuple(tuple(places[v]) for v in dict.fromkeys(operands) if v in crossed)
                carries = tuple(Edge(node, slot) for slot, v in values[node] if crossed and v not in crossed)
                results.append(Found(node, "concat", again, skips, fork, ends, again, crossings, carries))
        met |= new
        if len(operands) > 1:
            made_of[frozenset(operands)] = node
    return results


def _common(graph: Graph, operands: list[_Value]) -> Node | None:
    """The operand, or what it is a piece of, that feeds all others; None if there is none."""
    ends = [node for node, _ in operands]
    for candidates in (set(ends), {piece for end in ends for piece in _pieces(graph, end)}):
        first = min(candidates, key=graph.position.__getitem__)
        if all(graph.feeds(first, end) for end in ends) and any(
            _is_branch(graph, first, end) for end in ends
        ):
            return first
    return None


def _pieces(graph: Graph, node: Node) -> Iterator[Node]:
    """A value and what it was taken from without any arithmetic."""
    yield node
    while node.name().startswith(_MOVES) and len(operands := graph.operands(node)) == 1:
        node = operands[0][1]
        yield node


def _is_carried(graph: Graph, fork: Node, end: Node, skips_of: Mapping[Node, Sequence[Edge]]) -> bool:
    """Whether a way leads from the fork, or a piece of it, to a value by skips, without any other arithmetic."""
    waiting, seen = [end], {end}
    for node in waiting:
        if node is fork:
            return True
        above: list[Node] = []
        if node in skips_of:
            above = [graph.inputs[total][slot][0] for total, slot in skips_of[node]]
        elif node.name().startswith(_MOVES) and len(operands := graph.operands(node)) == 1:
            above = [operands[0][1]]
        fresh = [operand for operand in above if operand in graph.position and operand not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return False


def _is_branch(graph: Graph, fork: Node, end: Node) -> bool:
    return end is not fork and graph.feeds(fork, end) and graph.has_weights(fork, end)
