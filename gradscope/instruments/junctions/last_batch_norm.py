"""Which batch normalisation has the last word on what a residual branch adds?"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gradscope.instruments.batch_norm import batch_norm_layers
from gradscope.instruments.junctions import Trace
from gradscope.instruments.junctions.graph import Graph, gradient_node
from gradscope.instruments.junctions.junction import Edge
from gradscope.instruments.junctions.source import tensors_of


def last_batch_norm_weights(model: nn.Module, found: Trace) -> list[tuple[Tensor | None, ...]]:
    """For each junction and each of its branches, the weight of the last batch-norm layer inside the branch.

    A branch begins behind the last value that its junction's operands have in common, so a layer that skip and
    branch share lies outside. The last layer is the last one that every way through the branch passes: one
    beside a gate, as in squeeze-and-excitation, counts, one inside the gate does not.

    Args:
        model: The traced network.
        found: Its trace, with the graph alive.

    Returns:
        One tuple for each of `found.junctions`, one entry for each of its `branch_edges`: the parameter, or None
        where there is no such layer.
    """
    weights = {id(layer.weight): layer.weight for layer in batch_norm_layers(model)}
    outputs = [tensor for tensor in tensors_of(found.output) if tensor.requires_grad]
    source = gradient_node(found.source)
    graph = Graph(outputs, [] if source is None else [source])
    results: list[tuple[Tensor | None, ...]] = []
    for branches, skips in zip(found.branch_edges, found.skip_edges, strict=True):
        ends = [_value(edge) for edge in branches]
        operands = [*(_value(edge) for edge in skips), *ends]
        # An operand that a second input feeds alone, as in an encoder-decoder, is not on the graph of the first.
        if not all(node in graph.position for node in operands):
            results.append((None,) * len(ends))
            continue
        fork = _fork(graph, operands)
        results.append(tuple(_last(graph, end, fork, weights) for end in ends))
    return results


def _value(edge: Edge) -> Any:
    return edge.node.next_functions[edge.slot][0]


def _fork(graph: Graph, operands: Sequence[Any]) -> Any:
    """The last value that every way to every operand passes."""

    def place(node: Any) -> int:
        return -1 if node is None else graph.position.get(node, -1)

    common: Any = operands[0]
    for operand in operands[1:]:
        other: Any = operand
        while common is not other:
            if place(common) > place(other):
                common = graph.dominator[common]
            else:
                other = graph.dominator[other]
    return common


def _last(graph: Graph, end: Any, fork: Any, weights: Mapping[int, Tensor]) -> Tensor | None:
    node: Any = end
    while node is not None and node is not fork:
        for operand, _ in node.next_functions:
            weight = weights.get(id(getattr(operand, "variable", None)))
            if weight is not None:
                return weight
        node = graph.dominator[node]
    return None
