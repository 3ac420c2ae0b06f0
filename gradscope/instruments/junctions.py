"""Finding the residual additions of any network on the autograd graph of one ordinary forward pass."""

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradscope.instruments.calls import AddCall, additions
from gradscope.instruments.graph import Graph, Node, gradient_node
from gradscope.instruments.listen import first_tensor
from gradscope.instruments.quiet import left_as_found

_ADDS = ("AddBackward0", "SubBackward0")
_CALLS = "AOT-compiled or jit-compiled"


@dataclass(frozen=True)
class Junction:
    """A residual addition in a forward pass.

    Attributes:
        name: Innermost module running, and the ordinal of the addition within it: `layer1.0:0`.
        kind: `identity` (one operand feeds all others), `projection` (the skip is a linear map with
            weights), `nonparam-skip` (the skip is reshaped, padded or pooled without weights),
            `gated` (two products, as in highway networks), `branches` (several weighted operands
            that meet again, Inception style: no skip among them).
        level: Nesting: 0 unless the addition lies inside another junction's branch.
        shape: Shape of the sum.
        index: Place in the forward pass among the junctions, from 0.
        branches: Operands that are residual branches, as (number of the addition, slot).
        skips: The other operands, likewise.
        additions: How many additions of two tensors that forward called; a lesion compares it, to notice
            that the numbers above no longer hold.
    """

    name: str
    kind: str
    level: int
    shape: tuple[int, ...]
    index: int
    branches: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, int], ...]
    additions: int

    @property
    def graded(self) -> bool:
        """Whether path lengths are defined here: a skip exists and crossing it counts nothing."""
        return self.kind in ("identity", "projection", "nonparam-skip")


class Edge(NamedTuple):
    """Operand `slot` of an addition's node in one particular autograd graph."""

    node: Node
    slot: int


@dataclass(frozen=True)
class Trace:
    """One forward pass with its graph alive, so that gradients through it can be gated.

    Attributes:
        output: What the forward function returned.
        source: Tensor that counts as the network's input (for integer inputs: the embedding's output).
        junctions: The junctions found, in forward order.
        branch_edges: Per junction, the graph edges of its branch operands.
        skip_edges: Per junction, those of its skip operands.
        is_chain: Whether every way from the source to the output passes all junctions of level 0, one
            after the other, so that each is entered by its skip or by one of its branches.
    """

    output: Any
    source: Tensor
    junctions: tuple[Junction, ...]
    branch_edges: tuple[tuple[Edge, ...], ...]
    skip_edges: tuple[tuple[Edge, ...], ...]
    is_chain: bool


def trace(model: nn.Module, forward: Callable[[Any], Any], inputs: Any) -> Trace:
    """Run `forward(inputs)` once and find the residual junctions in what it did.

    Args:
        model: The network that `forward` calls.
        forward: `inputs -> output`, any structure of tensors.
        inputs: A floating-point tensor, or integers (or a dict of them) that an embedding reads.

    Raises:
        ValueError: No way from the input to the output can be seen (compiled graphs, inference mode).
    """
    results: list[AddCall] = []
    with torch.enable_grad(), additions(model, report=results.append) as counter, _source(model, inputs) as (
        placed,
        source,
    ):
        output = forward(placed)
    origins = source()
    tensors = [tensor for tensor in _tensors(output) if tensor.requires_grad]
    sources = [node for node in (gradient_node(tensor) for tensor in origins) if node is not None]
    graph = Graph(tensors, sources)
    if not origins or not any(graph.consumers.get(node) or node in graph.order for node in sources):
        raise ValueError(
            f"The output of {type(model).__name__} does not depend on its input in a way autograd can see. "
            f"Run the eager model ({_CALLS} graphs hide their inside: "
            "torch.compiler.set_stance('force_eager') restores them), outside torch.inference_mode."
        )
    called = {gradient_node(call.result): call for call in results if call.result.requires_grad}
    found = _Finder(graph, called, counter.count).found()
    passed = graph.on_every_way([node for node in (gradient_node(t) for t in tensors) if node is not None])
    return Trace(
        output,
        origins[0],
        tuple(junction for junction, _, _, _ in found),
        tuple(branches for _, _, branches, _ in found),
        tuple(skips for _, _, _, skips in found),
        all(node in passed for junction, node, _, _ in found if junction.level == 0),
    )


class Junctions(Sequence[Junction]):
    """The junctions of a network in forward order; prints as a table."""

    def __init__(self, found: Sequence[Junction]) -> None:
        self._found = tuple(found)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, place: Any) -> Any:
        return self._found[place]

    def __iter__(self) -> Iterator[Junction]:
        return iter(self._found)

    def matching(self, pattern: str) -> list[Junction]:
        """The junctions whose name matches a glob pattern; raises ValueError if none does."""
        found = [j for j in self._found if fnmatch.fnmatchcase(j.name, pattern)]
        if not found:
            names = ", ".join(j.name for j in self._found[:8]) or "none"
            raise ValueError(f"No junction matches {pattern!r}. The junctions are: {names}.")
        return found

    def __repr__(self) -> str:
        if not self._found:
            return "no residual junctions"
        width = max(len(j.name) for j in self._found)
        rows = (f"{j.index:>4}  {j.name:<{width}}  {j.kind:<13} level {j.level}  {j.shape}" for j in self._found)
        return "\n".join(rows)


def junctions(model: nn.Module, *arguments: Any, **keywords: Any) -> Junctions:
    """Every residual addition in one ordinary forward pass `model(*arguments, **keywords)`.

    Works on unmodified models, frozen or not; a plain network has none. Additions inside compiled or
    fused kernels cannot be seen, and DenseNet's concatenations are not additions.

    Example:
        >>> junctions(model, images)
           0  layer1.0:0  identity       level 0  (8, 64, 8, 8)
    """
    with left_as_found(model):
        model.eval()
        inputs = (arguments, keywords)
        found = trace(model, lambda given: model(*given[0], **given[1]), inputs)
        return Junctions(found.junctions)


class _Finder:
    """The algorithm: dominators and ancestors of addition nodes."""

    def __init__(self, graph: Graph, called: dict[Node | None, AddCall], additions: int) -> None:
        self.graph = graph
        self.called = called
        self.additions = additions

    def found(self) -> list[tuple[Junction, Node, tuple[Edge, ...], tuple[Edge, ...]]]:
        inner: set[Node] = set()
        raw = []
        for node in reversed(self.graph.order):
            if node.name() not in _ADDS or node in inner:
                continue
            edges = self._flattened(node, inner)
            if len(edges) < 2:
                continue
            sorted_out = self._classified(node, edges)
            if sorted_out is not None:
                raw.append((node, *sorted_out))
        raw.reverse()
        nested = Counter(node for *_, region in raw for node in region if node.name() in _ADDS)
        ordinals: dict[str, int] = {}
        results = []
        for node, kind, branches, skips, _ in raw:
            call = self.called.get(node)
            module = call.module if call is not None else ""
            ordinal = ordinals[module] = ordinals.get(module, -1) + 1
            junction = Junction(
                name=f"{module}:{ordinal}",
                kind=kind,
                level=nested[node],
                shape=tuple(call.result.shape) if call is not None else (),
                index=len(results),
                branches=self._slots(branches),
                skips=self._slots(skips),
                additions=self.additions,
            )
            results.append((junction, node, tuple(branches), tuple(skips)))
        return results

    def _flattened(self, node: Node, inner: set[Node]) -> list[Edge]:
        """Operand edges of an addition, with additions that only it consumes taken apart."""
        edges = []
        for slot, operand in self.graph.operands(node):
            if operand.name() in _ADDS and self.graph.consumers[operand] == 1:
                deeper = self._flattened(operand, inner)
                if len(deeper) > 1:
                    inner.add(operand)
                    edges.extend(deeper)
                    continue
            edges.append(Edge(node, slot))
        return edges

    def _classified(
        self, node: Node, edges: list[Edge]
    ) -> tuple[str, list[Edge], list[Edge], set[Node]] | None:
        """Kind, branch edges, skip edges and the nodes of all branches; None if this is no junction."""
        nodes = [edge.node.next_functions[edge.slot][0] for edge in edges]
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
        return tuple((self.called[e.node].index, e.slot) for e in edges if e.node in self.called)


@contextmanager
def _source(model: nn.Module, inputs: Any) -> Iterator[tuple[Any, Callable[[], list[Tensor]]]]:
    """Inputs that need a gradient, and the tensors that count as sources once the forward has run."""
    floating = [tensor for tensor in _tensors(inputs) if tensor.is_floating_point()]
    integers = [tensor for tensor in _tensors(inputs) if not tensor.is_floating_point()]
    if floating:
        placed = _mapped(inputs, lambda t: t.detach().requires_grad_() if t is floating[0] else t)
        first = next(tensor for tensor in _tensors(placed) if tensor.requires_grad)
        yield placed, lambda: [first]
        return
    embedded: list[Tensor] = []
    pointers = {tensor.data_ptr() for tensor in integers}

    def on_embedding(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        if embedded and first_tensor(arguments) is not None and arguments[0].data_ptr() not in pointers:
            return None
        source = output.detach().requires_grad_()
        embedded.append(source)
        return source

    handles = [m.register_forward_hook(on_embedding) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield inputs, lambda: embedded
    finally:
        for handle in handles:
            handle.remove()


def _tensors(structure: Any) -> list[Tensor]:
    if isinstance(structure, Tensor):
        return [structure]
    values = structure.values() if hasattr(structure, "values") else structure
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        return []
    return [tensor for value in values for tensor in _tensors(value)]


def _mapped(structure: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(structure, Tensor):
        return change(structure)
    if isinstance(structure, dict):
        return {key: _mapped(value, change) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        return type(structure)(_mapped(value, change) for value in structure)
    return structure
