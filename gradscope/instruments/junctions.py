"""Finding the residual additions of any network on the autograd graph of one ordinary forward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.calls import AddCall, additions
from gradscope.instruments.finder import Finder
from gradscope.instruments.graph import Graph, gradient_node
from gradscope.instruments.junction import Edge, Junction
from gradscope.instruments.listing import Junctions
from gradscope.instruments.quiet import left_as_found
from gradscope.instruments.source import source_of, tensors_of

__all__ = ["Edge", "Junction", "Junctions", "Trace", "junctions", "trace"]

_OPAQUE = {
    "CompiledFunctionBackward": "measure inside torch.compiler.set_stance('force_eager')",
    "CheckpointFunctionBackward": "checkpoint with use_reentrant=False",
}


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
        on_every_way: Per junction, whether every way from the source to the output passes its sum.
    """

    output: Any
    source: Tensor
    junctions: tuple[Junction, ...]
    branch_edges: tuple[tuple[Edge, ...], ...]
    skip_edges: tuple[tuple[Edge, ...], ...]
    is_chain: bool
    on_every_way: tuple[bool, ...]


def trace(model: nn.Module, forward: Callable[[Any], Any], inputs: Any) -> Trace:
    """Run `forward(inputs)` once and find the residual junctions in what it did.

    Args:
        model: The network that `forward` calls.
        forward: `inputs -> output`, any structure of tensors.
        inputs: A floating-point tensor, or integers (or a dict of them) that an embedding reads.

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
    results: list[AddCall] = []
    with (
        torch.enable_grad(),
        additions(model, report=results.append) as counter,
        source_of(model, inputs) as (
            placed,
            source,
        ),
    ):
        output = forward(placed)
    origins = source()
    tensors = [tensor for tensor in tensors_of(output) if tensor.requires_grad]
    sources = [node for node in (gradient_node(tensor) for tensor in origins) if node is not None]
    graph = Graph(tensors, sources)
    hidden = next((node.name() for node in graph.order if node.name() in _OPAQUE), None)
    if hidden is not None:
        raise ValueError(
            f"A part of {type(model).__name__} is one {hidden} to autograd, so additions inside it cannot be "
            f"seen: {_OPAQUE[hidden]}."
        )
    if not origins or not any(graph.consumers.get(node) or node in graph.order for node in sources):
        raise ValueError(unseen)
    called = {call.node: call for call in results if call.node is not None}
    found = Finder(graph, called, counter.count).found()
    passed = graph.on_every_way([node for node in (gradient_node(t) for t in tensors) if node is not None])
    return Trace(
        output,
        origins[0],
        tuple(junction for junction, _, _, _ in found),
        tuple(branches for _, _, branches, _ in found),
        tuple(skips for _, _, _, skips in found),
        all(node in passed for junction, node, _, _ in found if junction.level == 0),
        tuple(node in passed for _, node, _, _ in found),
    )


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
