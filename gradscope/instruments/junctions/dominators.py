"""Dominators of a graph: which node every way from a source to another node passes."""

from collections.abc import Callable, Iterable
from typing import Any

Node = Any


class Dominators:
    """The tree of immediate dominators, with ancestors in a logarithmic number of steps.

    The root is None, which stands above all sources. Beside its parent each node keeps one farther ancestor to
    jump to (Myers 1983, An applicative random-access stack), so a chain of a thousand blocks needs no thousand steps.

    Args:
        order: Nodes, operands first.
        operands: What a node is computed from; a node without operands hangs from the root.
    """

    def __init__(self, order: Iterable[Node], operands: Callable[[Node], Iterable[Node]]) -> None:
        self.parent: dict[Node | None, Node | None] = {None: None}
        self._jump: dict[Node | None, Node | None] = {None: None}
        self._height: dict[Node | None, int] = {None: 0}
        for node in order:
            given = iter(operands(node))
            parent = next(given, None)
            for other in given:
                parent = self.common(parent, other)
            self._hang(node, parent)

    def common(self, one: Node | None, other: Node | None) -> Node | None:
        """The nearest node (None: the root) that dominates both; a node dominates itself."""
        one, other = self._at(one, self._height[other]), self._at(other, self._height[one])
        while one is not other:
            if self._jump[one] is not self._jump[other]:
                one, other = self._jump[one], self._jump[other]
            else:
                one, other = self.parent[one], self.parent[other]
        return one

    def dominates(self, one: Node | None, other: Node | None) -> bool:
        """Whether every way to `other` passes `one`; true if they are the same."""
        return self._at(other, self._height[one]) is one

    def towards(self, one: Node | None, other: Node) -> Node:
        """The child of `one` that dominates `other`, for a `one` that dominates `other` and is another node."""
        return self._at(other, self._height[one] + 1)

    def _at(self, node: Node | None, height: int) -> Node | None:
        while self._height[node] > height:
            jump = self._jump[node]
            node = jump if self._height[jump] >= height else self.parent[node]
        return node

    def _hang(self, node: Node, parent: Node | None) -> None:
        self.parent[node] = parent
        self._height[node] = self._height[parent] + 1
        near = self._jump[parent]
        far = self._jump[near]
        even = self._height[parent] - self._height[near] == self._height[near] - self._height[far]
        self._jump[node] = far if even else parent
