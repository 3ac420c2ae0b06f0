"""The autograd graph of one forward pass, read as a graph of values.

Nodes are `grad_fn` objects. Direction here is that of the forward pass: a node's *operands* are what it
was computed from (its `next_functions`), the source feeds everything, the output is fed by everything.
Only *live* nodes count: those on some way from the source to the output. Constants, masks, parameters
and whatever was computed from them alone drop out.
"""

import re
from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor, nn

from gradscope.instruments.junctions.dominators import Dominators, Node

__all__ = ["Graph", "Node", "PRODUCTS", "gradient_node", "takes_parameter"]

# Names of autograd nodes that multiply by weights even when those weights need no gradient.
PRODUCTS = re.compile(r"^(Convolution|Mm|Addmm|Bmm|Baddbmm|Addmv|Mv|Linear|MkldnnLinear|Einsum|Embedding)")
_NONLINEAR = re.compile(
    r"^(Relu|Gelu|Silu|Sigmoid|Tanh|Softmax|LogSoftmax|SafeSoftmax|Softplus|Elu|Celu|Selu|Mish|Hard|Leaky|Prelu|"
    r"Rrelu|Threshold|Glu|Clamp|Exp|Log|Sin|Cos|Abs|Scaled|Max|AdaptiveMax|Minimum|Maximum|LogSigmoid|Erf)"
)


class Graph:
    """Live nodes between sources and outputs in topological order, with immediate dominators.

    Args:
        outputs: Tensors with a `grad_fn`.
        sources: Nodes that count as inputs (see `source_node`).
        candidates: Nodes that count as inputs if what they feed passes weights before it meets what another
            source feeds: a second stream, such as the target of an encoder-decoder, but no mask and no scale.

    Attributes:
        everything: All nodes, parameters and what is computed from them alone included, operands first.
        order: The live ones among them.
        position: Place of each live node in `order`.
        inputs: `next_functions` of each live node.
        consumers: Number of edges from live nodes to each live node.
        dominator: Immediate dominator of each live node; None where sources have none in common.
    """

    def __init__(
        self, outputs: Iterable[Tensor], sources: Iterable[Node], candidates: Iterable[Node] = ()
    ) -> None:
        roots = [node for node in (gradient_node(tensor) for tensor in outputs) if node is not None]
        self.everything = _operands_first(roots)
        self.sources = set(sources)
        self.sources |= self._streams(set(candidates) - self.sources)
        alive: set[Node] = set(self.sources)
        for node in self.everything:
            if any(operand in alive for operand, _ in node.next_functions if operand is not None):
                alive.add(node)
        fed_to_output: set[Node] = set(roots) & alive
        for node in reversed(self.everything):
            if node in fed_to_output and node not in self.sources:
                fed_to_output.update(o for o, _ in node.next_functions if o is not None and o in alive)
        self.order = [node for node in self.everything if node in fed_to_output]
        self.position = {node: place for place, node in enumerate(self.order)}
        # Autograd makes this tuple anew each time it is asked for it.
        self.inputs = {node: node.next_functions for node in self.order}
        self._operands = {
            node: []
            if node in self.sources
            else [(slot, o) for slot, (o, _) in enumerate(self.inputs[node]) if o in self.position]
            for node in self.order
        }
        self.consumers: dict[Node, int] = dict.fromkeys(self.order, 0)
        for operands in self._operands.values():
            for _, operand in operands:
                self.consumers[operand] += 1
        self.dominators = Dominators(
            self.order, lambda node: [operand for _, operand in self._operands[node]]
        )
        self.dominator = self.dominators.parent
        self._weights = self._along_dominators(self._is_weight)
        self._bends = self._along_dominators(self._is_bend)

    def operands(self, node: Node) -> list[tuple[int, Node]]:
        """Live operands of a node as (slot, operand node); a source has none."""
        return self._operands[node]

    def feeds(self, one: Node, other: Node) -> bool:
        """Whether some way leads from `one` to `other`, or they are the same."""
        tree, floor = self.dominators, self.position[one]
        seen: set[Node] = set()
        stack = [other]
        while stack:
            node = stack.pop()
            if tree.dominates(one, node):
                return True
            # Every way from `one` comes in where the two part in the tree, so the search goes on there.
            above = one
            while not tree.dominates(above, node):
                above = tree.parent[above]
            if above is not node:
                entry = tree.towards(above, node)
                if self.position[entry] > floor and entry not in seen:
                    seen.add(entry)
                    stack.extend(operand for _, operand in self._operands[entry])
        return False

    def between(self, fork: Node | None, node: Node) -> set[Node] | None:
        """The nodes on all ways from `fork` (left out) to `node` (included); None if `fork` does not feed it.

        With `fork` None, everything that feeds `node`.
        """
        if fork is node:
            return set()
        floor = -1 if fork is None else self.position[fork]
        seen: set[Node] = set()
        reaches: set[Node] = set()
        # Depth-first towards the sources, never below the fork's place in the topological order.
        stack: list[tuple[Node, bool]] = [(node, False)]
        while stack:
            current, finished = stack.pop()
            if finished:
                if fork is None or any(o is fork or o in reaches for _, o in self.operands(current)):
                    reaches.add(current)
                continue
            if current in seen or self.position[current] <= floor:
                continue
            seen.add(current)
            stack.append((current, True))
            stack.extend((operand, False) for _, operand in self.operands(current))
        return reaches if fork is None or node in reaches else None

    def has_weights(self, fork: Node | None, node: Node) -> bool:
        """Whether some way from `fork` (left out) to `node` (included) passes weights.

        Weights are parameters that a node takes, and matrix products, so that frozen ones count as well.
        """
        if self.dominators.dominates(fork, node):
            return self._weights[node] > self._weights[fork]
        return any(map(self._is_weight, self.between(fork, node) or ()))

    def has_any_weights(self, nodes: Iterable[Node]) -> bool:
        """Whether some of these nodes multiplies by weights."""
        return any(map(self._is_weight, nodes))

    def passing(self, wanted: Collection[Node]) -> Callable[[Node | None, Node], bool]:
        """A test whether some way from `fork` (left out) to `node` (included) passes one of these nodes."""
        count = self._along_dominators(lambda node: node in wanted)

        def passes(fork: Node | None, node: Node) -> bool:
            if self.dominators.dominates(fork, node):
                return count[node] > count[fork]
            return any(inside in wanted for inside in self.between(fork, node) or ())

        return passes

    def is_linear(self, fork: Node | None, node: Node) -> bool:
        """Whether no way from `fork` to `node` passes a known non-linearity or a product of two live values."""
        if self.dominators.dominates(fork, node):
            return self._bends[node] == self._bends[fork]
        return not any(map(self._is_bend, self.between(fork, node) or ()))

    def on_every_way(self, outputs: Iterable[Node]) -> set[Node]:
        """The nodes that every way from a source to every one of `outputs` passes."""
        shared: set[Node] | None = None
        for output in outputs:
            passed: set[Node] = set()
            current: Node | None = output if output in self.position else None
            while current is not None:
                passed.add(current)
                current = self.dominator[current]
            shared = passed if shared is None else shared & passed
        return shared or set()

    def _streams(self, candidates: set[Node]) -> set[Node]:
        """The candidates that alone feed a node with weights."""
        fed: dict[Node, frozenset[Node]] = {}
        found: set[Node] = set()
        for node in self.everything if candidates else ():
            own = [node] if node in candidates or node in self.sources else []
            fed[node] = frozenset(own).union(*(fed[o] for o, _ in node.next_functions if o is not None))
            if len(fed[node]) == 1 and fed[node] <= candidates and not own and self._is_weight(node):
                found |= fed[node]
        return found

    def _is_weight(self, node: Node) -> bool:
        return node not in self.sources and (takes_parameter(node) or bool(PRODUCTS.match(node.name())))

    def _is_bend(self, node: Node) -> bool:
        name = node.name()
        return bool(_NONLINEAR.match(name)) or (name.startswith("Mul") and len(self._operands[node]) > 1)

    def _along_dominators(self, holds: Callable[[Node], bool]) -> dict[Node | None, int]:
        """A count that grows from a dominator to a node it dominates if something between them, or the node, holds."""
        count: dict[Node | None, int] = {None: 0}
        for node in self.order:
            above = self.dominator[node]
            between = any(count[o] > count[above] for _, o in self._operands[node] if o is not above)
            count[node] = count[above] + int(between) + int(holds(node))
        return count


def gradient_node(tensor: Tensor) -> Node | None:
    """The graph node whose value `tensor` is, leaves that require a gradient included; None without a graph."""
    if not tensor.requires_grad or tensor.is_inference():
        return None
    return torch.autograd.graph.get_gradient_edge(tensor).node


def takes_parameter(node: Node) -> bool:
    """Whether an operand of the node is itself a parameter."""
    return any(
        isinstance(getattr(operand, "variable", None), nn.Parameter) for operand, _ in node.next_functions
    )


def _operands_first(roots: list[Node]) -> list[Node]:
    """All nodes behind `roots`, in the order in which the forward pass made them where that puts operands first."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, finished = stack.pop()
        if finished:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        stack.extend((operand, False) for operand, _ in node.next_functions if operand is not None)
    made = sorted(order, key=_made)
    place = {node: number for number, node in enumerate(made)}
    sorted_out = all(place[o] < place[n] for n in made for o, _ in n.next_functions if o is not None)
    return made if sorted_out else order


def _made(node: Node) -> int:
    """When a node was made: a number that grows, for each thread of its own; leaves were there before."""
    return -1 if hasattr(node, "variable") else node._sequence_nr()
