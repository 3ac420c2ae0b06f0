"""Finding the residual junctions of any network on the autograd graph of one ordinary forward pass."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.dict_batch import spread
from gradscope.instruments.junctions.attention import attending
from gradscope.instruments.junctions.calls import AddCall, additions
from gradscope.instruments.junctions.concatenations import concatenations
from gradscope.instruments.junctions.finder import Finder, Found
from gradscope.instruments.junctions.graph import Graph, Node, gradient_node
from gradscope.instruments.junctions.junction import Edge, Junction
from gradscope.instruments.junctions.learned_starts import learned_starts
from gradscope.instruments.junctions.levels import levels
from gradscope.instruments.junctions.listing import Junctions
from gradscope.instruments.junctions.routes import Routes, contracted
from gradscope.instruments.junctions.source import streams_of, tensors_of
from gradscope.instruments.junctions.summands import shape_of
from gradscope.instruments.junctions.unseen import refuse_opaque, refuse_unnumbered, warn_of_custom_functions
from gradscope.instruments.quiet import collector_paused, left_as_found

__all__ = ["Edge", "Junction", "Junctions", "Trace", "junctions", "trace"]


@dataclass(frozen=True)
class Trace:
    """One forward pass with its graph alive, so that gradients through it can be gated.

    Attributes:
        output: What the forward function returned.
        source: Tensor that counts as the network's input (for integer inputs: the embedding's output).
        junctions: The junctions found, in forward order.
        branch_edges: Per junction, the graph edges of its branch operands; of a concatenated layer's result, all
            edges at which it is concatenated.
        skip_edges: Per junction, those of its skip operands.
        crossings: Per junction, per branch operand, the edges whose gradient has crossed that branch. Every way
            through the graph meets one of them at most. A gated sum has one crossing, for whatever is not carried;
            the result of a concatenated layer is crossed at every place where it is concatenated, but for residual
            sums among these results, at which those who cross are told already. What a sum itself multiplies a branch
            by, such as the weights of `addmm`, is on the branch. Empty if not `counted`.
        carries: Per junction, the edges by which the gradient passes it without crossing a branch.
        is_chain: Whether every way from the source to the output passes all junctions of level 0 and all outermost
            ones, one after the other, so that each is entered by its skip or by one of its branches.
        on_every_way: Per junction, whether every way from the source to the output passes its sum.
        graph: The graph of that pass.
        found: The junctions in the graph.
        fed: For junctions whose skip is a learned value, the live nodes that this value feeds before the sum.
    """

    output: Any
    source: Tensor
    junctions: tuple[Junction, ...]
    branch_edges: tuple[tuple[Edge, ...], ...]
    skip_edges: tuple[tuple[Edge, ...], ...]
    crossings: tuple[tuple[tuple[Edge, ...], ...], ...]
    carries: tuple[tuple[Edge, ...], ...]
    is_chain: bool
    on_every_way: tuple[bool, ...]
    graph: Graph = field(repr=False)
    found: tuple[Found, ...] = field(repr=False)
    fed: Mapping[Node, Collection[Node]] = field(repr=False)

    @cached_property
    def attention(self) -> tuple[tuple[bool, ...], ...]:
        """Per junction, per crossing: whether a way from the fork to that branch's end passes softmax attention."""
        return attending(self.graph, self.found, self.fed)

    def routes(self, junctions: Iterable[Junction] | None = None) -> Routes:
        """What routes from `source` to the output there are, of which some junctions count the branches.

        Args:
            junctions: Those to count, of `junctions`; None for the outermost that are counted.
        """
        counted = (j for j in self.junctions if j.outermost) if junctions is None else junctions
        places = [self.found[junction.index] for junction in counted]
        outputs = _nodes(tensor for tensor in tensors_of(self.output) if tensor.requires_grad)
        return contracted(self.graph, places, outputs, _nodes([self.source]))


@collector_paused()
def trace(model: nn.Module, forward: Callable[[Any], Any], inputs: Any) -> Trace:
    """Run `forward(inputs)` once and find the residual junctions in what it did.

    Args:
        model: The network that `forward` calls.
        forward: `inputs -> output`, any structure of tensors.
        inputs: A floating-point tensor, or integers (or a dict of them) that an embedding reads. Further tensors
            are inputs too if weights meet them first (`source.streams_of`), such as the target of an
            encoder-decoder; the gradient is taken at the first.

    Raises:
        ValueError: A part of the graph cannot be seen (compiled graphs, reentrant checkpoints, inference
            mode), or no way leads from the input to the output.
    """
    unseen = (
        f"The output of {type(model).__name__} does not depend on its input in a way autograd can see. Measure "
        "outside of torch.inference_mode (torch.no_grad is no obstacle), and let the first tensor of the input "
        "be a floating-point one, or integers that an nn.Embedding reads."
    )
    if torch.is_inference_mode_enabled():
        raise ValueError(unseen)
    calls: list[AddCall] = []
    with (
        torch.enable_grad(),
        _needing_gradients(model),
        additions(model, report=calls.append) as counter,
        streams_of(model, inputs) as (placed, sources),
    ):
        output = forward(placed)
    origins, candidates = sources()
    tensors = [tensor for tensor in tensors_of(output) if tensor.requires_grad]
    main = _nodes(origins)
    graph = Graph(tensors, main, _nodes(candidates))
    refuse_opaque(model, graph)
    if not origins or not any(node in graph.position for node in main):
        raise ValueError(unseen)
    warn_of_custom_functions(model, graph)
    called = {call.node: call for call in calls if call.node is not None}
    learned = learned_starts(graph)
    starts = {junction.node for junction, _ in learned}
    sums = [*Finder(graph, called, starts).found(), *(junction for junction, _ in learned)]
    found = _in_forward_order([*sums, *concatenations(graph, sums)], graph, called)
    fed = {junction.node: nodes for junction, nodes in learned}
    deep = levels(graph, found, fed)
    able = [place for place in found if place.crossings]
    outermost = {place.node for place, depth in zip(able, levels(graph, able, fed), strict=True) if not depth}
    described = _described(found, deep, outermost, called, counter.count)
    # Whether a way leads around a junction is asked of the ways from the source, not from further streams.
    alone = graph if graph.sources <= set(main) else Graph(tensors, main)
    passed = alone.on_every_way(_nodes(tensors))
    outer = [
        (j, place.node)
        for j, place in zip(described, found, strict=True)
        if j.outermost or (j.level == 0 and j.kind != "concat")
    ]
    return Trace(
        output,
        origins[0],
        described,
        tuple(place.branches for place in found),
        tuple(place.skips for place in found),
        tuple(place.crossings for place in found),
        tuple(place.carries for place in found),
        all(node in passed and node not in starts for _, node in outer),
        tuple(place.node in passed for place in found),
        graph,
        tuple(found),
        fed,
    )


def junctions(model: nn.Module, *arguments: Any, **keywords: Any) -> Junctions:
    """Every residual sum and concatenation in one ordinary forward pass `model(*arguments, **keywords)`.

    Works on unmodified models, frozen or not; a plain network has none. Found are sums in all their forms (`x + y`,
    in place or not, `addmm`, `addcmul`, `lerp`, `stack(...).sum(dim)`) and concatenations of a value with what was
    computed from it. Which of several inputs count is told in `trace`.

    A dict batch, alone, is handed over as keywords without its `labels`: `junctions(model, batch)` calls
    `model(**batch)`. A forward that takes the dict itself gets it by name: `junctions(model, batch=batch)`.

    Raises:
        ValueError: As in `trace`; sums run inside torch.jit, where nothing can be put on their operands; or a dict
            batch with keys that the forward does not take.

    Warns:
        UserWarning: A custom autograd function runs, inside which a sum could not be seen.

    Example:
        >>> junctions(model, images)
        index  junction    kind        level  shape           branches
            0  layer1.0:0  identity        0  [8, 64, 8, 8]          1
    """
    with left_as_found(model):
        model.eval()
        inputs = spread(model, arguments, keywords)
        found = trace(model, lambda given: model(*given[0], **given[1]), inputs)
        refuse_unnumbered(model, found.junctions)
        return Junctions(found.junctions)


@contextmanager
def _needing_gradients(model: nn.Module) -> Iterator[None]:
    """Let frozen parameters need gradients for a while, so that the graph shows them as it shows the others."""
    frozen = [
        parameter
        for parameter in model.parameters()
        if not parameter.requires_grad and parameter.is_floating_point() and not parameter.is_inference()
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _nodes(tensors: Iterable[Tensor]) -> list[Node]:
    return [node for node in map(gradient_node, tensors) if node is not None]


def _call_of(found: Found, called: Mapping[Node, AddCall]) -> AddCall | None:
    """The call that makes a junction: that of its node, or of the stack whose sum the node is."""
    edge = (*found.skips, *found.branches)[0]
    call = called.get(found.node)
    return called.get(edge.node) if call is None and found.node.name().startswith(("Sum", "Mean")) else call


def _in_forward_order(found: list[Found], graph: Graph, called: Mapping[Node, AddCall]) -> list[Found]:
    """By number of the call; what Python did not call follows what lies before it in the graph."""
    found = sorted(found, key=lambda junction: graph.position[junction.node])
    numbers = []
    latest = -1
    for junction in found:
        call = _call_of(junction, called)
        latest = latest if call is None else call.number
        numbers.append(latest)
    return [found[place] for place in sorted(range(len(found)), key=numbers.__getitem__)]


def _described(
    found: list[Found],
    deep: list[int],
    outermost: Collection[Node],
    called: Mapping[Node, AddCall],
    count: int,
) -> tuple[Junction, ...]:
    def slots(edges: Iterable[Edge]) -> tuple[tuple[int, int], ...]:
        return tuple((called[edge.node].number, edge.slot) for edge in edges if edge.node in called)

    ordinals: dict[str, int] = {}
    described = []
    for index, (place, level) in enumerate(zip(found, deep, strict=True)):
        call = _call_of(place, called)
        module = "" if call is None else call.module
        ordinal = ordinals[module] = ordinals.get(module, -1) + 1
        # The node of a sum into a view has the shape of the view's base, and the call of a stack that of the stack.
        told = call is not None and place.node in called
        described.append(
            Junction(
                name=f"{module}:{ordinal}",
                kind=place.kind,
                level=level,
                shape=call.shape if call is not None and told else shape_of(place.node),
                index=index,
                branches=slots(place.occurrences),
                skips=slots(place.skips),
                additions=count,
                number=None if call is None else call.number,
                counted=bool(place.crossings),
                outermost=place.node in outermost,
            )
        )
    return tuple(described)
