"""Which additions of an autograd graph are residual, and which of their operands are branches."""

from collections import Counter
from collections.abc import Sequence

from gradscope.instruments.calls import AddCall
from gradscope.instruments.graph import Graph, Node
from gradscope.instruments.junction import Edge, Junction

_ADDS = ("AddBackward0", "SubBackward0")


class Finder:
    """The algorithm: dominators and ancestors of addition nodes."""

    def __init__(self, graph: Graph, called: dict[Node, AddCall], additions: int) -> None:
        self.graph = graph
        self.called = called
        self.additions = additions

    def found(self) -> list[tuple[Junction, Node, tuple[Edge, ...], tuple[Edge, ...]]]:
        inner: set[Node] = set()
        raw = []
        for node in reversed(self.graph.order):
            if node.name() not in _ADDS or node in inner or len(self.graph.operands(node)) < 2:
                continue
            fork = self._fork(node, self._flattened(node))
            edges = self._flattened(node, fork, inner)
            sorted_out = self._classified(node, edges)
            if sorted_out is not None:
                raw.append((node, *sorted_out))
        raw.reverse()
        nested = Counter(node for *_, region in raw for node in region if node.name() in _ADDS)
        ordinals: dict[str, int] = {}
        results: list[tuple[Junction, Node, tuple[Edge, ...], tuple[Edge, ...]]] = []
        for node, kind, branches, skips, _ in raw:
            call = self.called.get(node)
            module = call.module if call is not None else ""
            ordinal = ordinals[module] = ordinals.get(module, -1) + 1
            junction = Junction(
                name=f"{module}:{ordinal}",
                kind=kind,
                level=nested[node],
                shape=call.shape if call is not None else (),
                index=len(results),
                branches=self._slots(branches),
                skips=self._slots(skips),
                additions=self.additions,
                number=None if call is None else call.number,
            )
            results.append((junction, node, tuple(branches), tuple(skips)))
        return results

    def _flattened(self, node: Node, fork: Node | None = None, inner: set[Node] | None = None) -> list[Edge]:
        """Operand edges of an addition, with additions that only it consumes taken apart.

        With a `fork`, a residual addition that forks off elsewhere stays whole: it ends the branch of a
        longer skip. What is taken apart is added to `inner`.
        """
        edges = []
        for slot, operand in self.graph.operands(node):
            if operand.name() in _ADDS and self.graph.consumers[operand] == 1:
                whole = fork is not None and self._forks_elsewhere(operand, fork)
                deeper = [] if whole else self._flattened(operand, fork, inner)
                if len(deeper) > 1:
                    if inner is not None:
                        inner.add(operand)
                    edges.extend(deeper)
                    continue
            edges.append(Edge(node, slot))
        return edges

    def _forks_elsewhere(self, node: Node, fork: Node) -> bool:
        edges = self._flattened(node)
        sorted_out = self._classified(node, edges)
        return sorted_out is not None and bool(sorted_out[2]) and self._fork(node, edges) is not fork

    def _fork(self, node: Node, edges: Sequence[Edge]) -> Node | None:
        """The value that the operands of an addition have in common: one of them, or what dominates it."""
        nodes = [self._value(edge) for edge in edges]
        first = min(nodes, key=self.graph.position.__getitem__)
        if all(self.graph.between(first, operand) is not None for operand in nodes):
            return first
        return self.graph.dominator[node]

    def _value(self, edge: Edge) -> Node:
        """The operand at an edge; a constant added to it (Python's `sum` begins with 0 + x) changes nothing."""
        node = edge.node.next_functions[edge.slot][0]
        while node.name() == "AddBackward0" and len(operands := self.graph.operands(node)) == 1:
            node = operands[0][1]
        return node

    def _classified(
        self, node: Node, edges: list[Edge]
    ) -> tuple[str, list[Edge], list[Edge], set[Node]] | None:
        """Kind, branch edges, skip edges and the nodes of all branches; None if this is no junction."""
        nodes = [self._value(edge) for edge in edges]
        fork = min(nodes, key=self.graph.position.__getitem__)
        regions = [self.graph.between(fork, operand) for operand in nodes]
        if all(region is not None for region in regions):
            branches = [(edge, region) for edge, region in zip(edges, regions, strict=True) if region]
            skips = [edge for edge, region in zip(edges, regions, strict=True) if not region]
            if len(skips) != 1 or not all(self.graph.has_weights(region) for _, region in branches):
                return None
            return "identity", [edge for edge, _ in branches], skips, set().union(*(r for _, r in branches))
        return self._rejoined(node, edges, nodes)

    def _rejoined(
        self, node: Node, edges: list[Edge], nodes: list[Node]
    ) -> tuple[str, list[Edge], list[Edge], set[Node]] | None:
        """An addition whose operands meet again only at its immediate dominator."""
        fork = self.graph.dominator[node]
        regions = [self.graph.between(fork, operand) or set() for operand in nodes]
        weighted = [self.graph.has_weights(region) for region in regions]
        if not any(weighted):
            return None
        everything: set[Node] = set().union(*regions)
        if self._is_gated(fork, nodes):
            return "gated", edges, [], everything
        linear = [w and self.graph.is_linear(r) for w, r in zip(weighted, regions, strict=True)]
        skips = [place for place, flag in enumerate(linear) if flag]
        kind = "projection"
        if not any(not flag and w for flag, w in zip(linear, weighted, strict=True)):
            skips = []
        if not skips:
            skips, kind = [place for place, flag in enumerate(weighted) if not flag], "nonparam-skip"
        if len(skips) != 1:
            return "branches", edges, [], everything
        branches = [place for place in range(len(edges)) if place not in skips]
        region: set[Node] = set().union(*(regions[place] for place in branches))
        return kind, [edges[place] for place in branches], [edges[place] for place in skips], region

    def _is_gated(self, fork: Node | None, nodes: list[Node]) -> bool:
        if fork is None or len(nodes) != 2 or not all(node.name().startswith("Mul") for node in nodes):
            return False
        return any(operand is fork for node in nodes for _, operand in self.graph.operands(node))

    def _slots(self, edges: Sequence[Edge]) -> tuple[tuple[int, int], ...]:
        return tuple((self.called[e.node].number, e.slot) for e in edges if e.node in self.called)
