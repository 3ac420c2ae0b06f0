"""Which sums of an autograd graph are residual, and which of their operands are branches."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from gradscope.instruments.junctions.calls import AddCall
from gradscope.instruments.junctions.crossings import crossings_of_gate, crossings_of_sum
from gradscope.instruments.junctions.graph import Graph, Node
from gradscope.instruments.junctions.junction import Edge
from gradscope.instruments.junctions.summands import Summand, Sums, shape_of


class Found(NamedTuple):
    """A junction in the graph.

    Attributes:
        node: The sum or concatenation.
        kind: As in `Junction`.
        branches: Edges of the branch operands, in the graph.
        skips: Those of the skip operands.
        fork: Value from which skip and branches part; None where they have none in common.
        ends: Last nodes of the branches.
        occurrences: All edges at which what the branches compute is used like this, for gates on the forward pass.
        crossings: As in `Trace`.
        carries: As in `Trace`.
    """

    node: Node
    kind: str
    branches: tuple[Edge, ...]
    skips: tuple[Edge, ...]
    fork: Node | None
    ends: tuple[Node, ...]
    occurrences: tuple[Edge, ...]
    crossings: tuple[tuple[Edge, ...], ...] = ()
    carries: tuple[Edge, ...] = ()


class Finder:
    """The algorithm for sums: dominators and ancestors of their operands."""

    def __init__(self, graph: Graph, called: Mapping[Node, AddCall], starts: Collection[Node] = ()) -> None:
        self.graph = graph
        self.sums = Sums(graph, called, starts)
        # Per sum, the first value among all its terms, and whether it feeds all of them.
        self._first: dict[Node, tuple[Node, bool]] = {}

    def found(self) -> list[Found]:
        """All residual sums, operands first."""
        nodes = [node for node in self.graph.order if self.sums.of(node)]
        for node in nodes:
            self._first[node] = self._first_value(node)
        inner: set[Node] = set()
        results = []
        for node in reversed(nodes):
            if node not in inner:
                classified = self._classified(node, self._terms(node, self._fork(node), inner))
                if classified is not None:
                    results.append(classified)
        return results[::-1]

    def _terms(self, node: Node, fork: Node | None, inner: set[Node] | None) -> list[Summand]:
        """The terms of a sum, with sums that only it consumes taken apart.

        With `inner`, a residual sum that forks off elsewhere stays whole: it ends the branch of a longer skip.
        What is taken apart is added to `inner`.
        """
        terms: list[Summand] = []
        waiting = [*reversed(self.sums.of(node))]
        while waiting:
            term = waiting.pop()
            nested = self._nested(term)
            if nested is None or (inner is not None and self._forks_elsewhere(nested, fork)):
                terms.append(term)
                continue
            if inner is not None:
                inner.add(nested)
            waiting.extend(reversed(self.sums.of(nested)))
        return terms

    def _nested(self, term: Summand) -> Node | None:
        """The sum that a term is, if nothing else consumes it."""
        if term.is_product:
            return None
        node = self.graph.inputs[term.edges[0].node][term.edges[0].slot][0]
        alone = self.graph.consumers[node] == 1 and not self.sums.mixes(node)
        return node if alone and self.sums.of(node) else None

    def _forks_elsewhere(self, node: Node, fork: Node | None) -> bool:
        if self._fork(node) is fork:
            return False
        classified = self._classified(node, self._terms(node, None, None))
        return classified is not None and bool(classified.skips)

    def _fork(self, node: Node) -> Node | None:
        """The value that the terms of a sum have in common: one of them, or what dominates it."""
        first, feeds_all = self._first[node]
        return first if feeds_all else self._above(node)

    def _above(self, node: Node) -> Node | None:
        # The terms of a sum over a stack come together in the stack.
        above = self.graph.dominator[self.sums.of(node)[0].edges[0].node]
        return None if above is None else self.sums.same(above)

    def _first_value(self, node: Node) -> tuple[Node, bool]:
        nested = [(term, self._nested(term)) for term in self.sums.of(node)]
        firsts = [
            self._first[n][0] if n is not None else min(self.sums.values(t), key=self._place)
            for t, n in nested
        ]
        first = min(firsts, key=self._place)
        for (term, inside), own in zip(nested, firsts, strict=True):
            if inside is not None and own is first:
                # Known since the sum inside was looked at, so a sum of many terms is not gone through again and again.
                fed = self._first[inside][1]
            else:
                terms = [term] if inside is None else self._terms(inside, None, None)
                fed = all(self.sums.is_fed(first, t) for t in terms)
            if not fed:
                return first, False
        return first, True

    def _place(self, node: Node) -> int:
        return self.graph.position[node]

    def _classified(self, node: Node, terms: Sequence[Summand]) -> Found | None:
        """What kind of junction a sum of these terms is; None if it is none."""
        if self.sums.mixes(node):
            return self._mixed(node, terms)
        first = min((value for term in terms for value in self.sums.values(term)), key=self._place)
        carried = any(not t.is_product and self.sums.value(t.edges[0]) is first for t in terms)
        if not carried or not all(self.sums.is_fed(first, term) for term in terms):
            return self._rejoined(node, terms)
        # What weights do not change is carried, be it the fork once more or a pooled copy beside it.
        branches = [term for term in terms if self.sums.has_weights(first, term)]
        skips = [term for term in terms if term not in branches]
        if not branches:
            return None
        return self._as_found(
            node, "identity" if len(skips) == 1 else "nonparam-skip", branches, skips, first
        )

    def _rejoined(self, node: Node, terms: Sequence[Summand]) -> Found | None:
        """A sum whose terms meet again only at its immediate dominator; with none in common it is no junction."""
        fork = self._above(node)
        weighted = [self.sums.has_weights(fork, term) for term in terms]
        if fork is None or not any(weighted):
            return None
        if self._is_gated(fork, terms):
            return self._as_found(node, "gated", terms, [], fork)
        carried = [term for term, flag in zip(terms, weighted, strict=True) if not flag]
        linear = [t for t in terms if t not in carried and self.sums.is_linear(fork, t)]
        # What is spread over the sum, such as the squares in |a|^2 + |b|^2 - 2ab, carries no stream beside others.
        streams = any(self._has_shape_of(node, term) for term in carried)
        projects = bool(linear) and len(carried) + len(linear) < len(terms) and not streams
        skips = linear if projects else carried
        if not skips or (len(skips) > 1 and not (streams and self._ends_here(fork, node))):
            return self._as_found(node, "branches", terms, [], fork)
        branches = [term for term in terms if term not in skips]
        return self._as_found(node, "projection" if projects else "nonparam-skip", branches, skips, fork)

    def _ends_here(self, fork: Node, node: Node) -> bool:
        """Whether nothing between a fork and a sum is used elsewhere, as it is where several streams are mixed."""
        inside = self.graph.between(fork, node) or set()
        used = Counter(operand for one in inside for _, operand in self.graph.operands(one))
        return all(used[one] == self.graph.consumers[one] for one in inside if one is not node)

    def _has_shape_of(self, node: Node, term: Summand) -> bool:
        operands = (self.graph.inputs[edge.node][edge.slot] for edge in term.edges)
        return any(shape_of(*operand) == shape_of(node) for operand in operands)

    def _mixed(self, node: Node, terms: Sequence[Summand]) -> Found | None:
        fork = self._above(node)
        if fork is None or not any(self.sums.has_weights(fork, term) for term in terms):
            return None
        carried = any(value is fork for term in terms for value in self.sums.values(term))
        return self._as_found(node, "gated" if carried else "branches", terms, [], fork)

    def _is_gated(self, fork: Node, terms: Sequence[Summand]) -> bool:
        factors = [self._factors(term) for term in terms]
        return len(terms) == 2 and all(factors) and any(fork in values for values in factors)

    def _factors(self, term: Summand) -> list[Node]:
        if term.is_product:
            return self.sums.values(term)
        (value,) = self.sums.values(term)
        if not value.name().startswith("Mul") or any(o is None for o, _ in value.next_functions):
            return []
        return [self.sums.same(operand) for operand, _ in value.next_functions]

    def _as_found(
        self, node: Node, kind: str, branches: Sequence[Summand], skips: Sequence[Summand], fork: Node | None
    ) -> Found:
        edges = tuple(_edges(branches))
        # A product is closed by one of its factors, and scaled only once if only one of them is.
        once = tuple(term.edges[0] for term in branches)
        ends = tuple(value for term in branches for value in self.sums.values(term))
        crossings: tuple[tuple[Edge, ...], ...] = ()
        carries: tuple[Edge, ...] = ()
        if skips:
            crossings, carries = crossings_of_sum(branches, skips)
        elif kind == "gated" and fork is not None:
            crossings, carries = crossings_of_gate(self.sums, node, branches, fork)
        return Found(node, kind, edges, tuple(_edges(skips)), fork, ends, once, crossings, carries)


def _edges(terms: Sequence[Summand]) -> Iterator[Edge]:
    return (edge for term in terms for edge in term.edges)
