"""The autograd graph of one forward pass, read as a graph of values.

Nodes are `grad_fn` objects. Direction here is that of the forward pass: a node's *operands* are what it
was computed from (its `next_functions`), the source feeds everything, the output is fed by everything.
Only *live* nodes count: those on some way from the source to the output. Constants, masks, parameters
and whatever was computed from them alone drop out.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Node = Any

# Names of autograd nodes that multiply by weights even when those weights need no gradient.
_PRODUCTS = re.compile(r"^(Convolution|Mm|Addmm|Bmm|Baddbmm|Addmv|Mv|Linear|MkldnnLinear|Einsum|Embedding)")
_NONLINEAR = re.compile(
    r"^(Relu|Gelu|Silu|Sigmoid|Tanh|Softmax|LogSoftmax|SafeSoftmax|Softplus|Elu|Celu|Selu|Mish|Hard|Leaky|Prelu|"
    r"Rrelu|Threshold|Glu|Clamp|Exp|Log|Sin|Cos|Abs|Scaled|Max|AdaptiveMax|Minimum|Maximum|LogSigmoid|Erf)"
)


class Graph:
    """Live nodes between sources and outputs in topological order, with immediate dominators.

    Args:
        outputs: Tensors with a `grad_fn`.
        sources: Nodes that count as inputs (see `source_node`).
    """

    def __init__(self, outputs: Iterable[Tensor], sources: Iterable[Node]) -> None:
        self.sources = list(sources)
        roots = [node for node in (gradient_node(tensor) for tensor in outputs) if node is not None]
        order = _operands_first(roots)
        alive: set[Node] = set(self.sources)
        for node in order:
            if any(operand in alive for operand, _ in node.next_functions if operand is not None):
                alive.add(node)
        fed_to_output: set[Node] = set(roots) & alive
        for node in reversed(order):
            if node in fed_to_output:
                fed_to_output.update(o for o, _ in node.next_functions if o is not None and o in alive)
        self.order = [node for node in order if node in fed_to_output]
        self.position = {node: place for place, node in enumerate(self.order)}
        self.consumers: dict[Node, int] = dict.fromkeys(self.order, 0)
        for node in self.order:
            for operand, _ in node.next_functions:
                if operand in self.position:
                    self.consumers[operand] += 1
        self.dominator = self._immediate_dominators()

    def operands(self, node: Node) -> list[tuple[int, Node]]:
        """Live operands of a node as (slot, operand node); a source has none."""
        if node in self.sources:
            return []
        return [
            (slot, operand)
            for slot, (operand, _) in enumerate(node.next_functions)
            if operand in self.position
        ]

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

    def has_weights(self, nodes: Iterable[Node]) -> bool:
        """Whether some node multiplies by weights: it has a parameter input, or is a matrix product."""
        return any(_takes_parameter(node) or _PRODUCTS.match(node.name()) for node in nodes)

    def is_linear(self, nodes: Iterable[Node]) -> bool:
        """Whether no node is a known non-linearity or a product of two live values."""
        return not any(
            _NONLINEAR.match(node.name()) or (node.name().startswith("Mul") and len(self.operands(node)) > 1)
            for node in nodes
        )

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

    def _immediate_dominators(self) -> dict[Node, Node | None]:
        dominator: dict[Node, Node | None] = {}
        height: dict[Node | None, int] = {None: 0}
        for node in self.order:
            operands = [operand for _, operand in self.operands(node)]
            common: Node | None = operands[0] if operands else None
            for other in operands[1:]:
                while common is not other:
                    if height[common] >= height[other]:
                        common = dominator[common] if common is not None else None
                    else:
                        other = dominator[other]
            dominator[node] = common
            height[node] = height[common] + 1
        return dominator


def gradient_node(tensor: Tensor) -> Node | None:
    """The graph node whose value `tensor` is, leaves that require a gradient included; None without a graph."""
    if not tensor.requires_grad or tensor.is_inference():
        return None
    return torch.autograd.graph.get_gradient_edge(tensor).node


def _takes_parameter(node: Node) -> bool:
    return any(
        isinstance(getattr(operand, "variable", None), nn.Parameter) for operand, _ in node.next_functions
    )


def _operands_first(roots: list[Node]) -> list[Node]:
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
    return order
