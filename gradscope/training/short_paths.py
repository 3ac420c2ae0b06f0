"""Train on short paths only: each step's gradient is the one through at most so many residual branches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradscope.instruments.gates import ByHand
from gradscope.instruments.junctions import Edge, Junction, Trace
from gradscope.instruments.junctions.calls import AddCall, additions
from gradscope.instruments.junctions.graph import Node
from gradscope.training.delayed_steps import DelayedStep
from gradscope.training.path_options import Asked, first_forward, no_blocks, selected, told

# How many nodes may lie between a sum and the product in it whose factors are told apart.
_DEEPEST = 8


@dataclass(frozen=True)
class ShortPaths:
    """See `short_paths`."""

    lengths: int
    junctions: Asked = None

    def __str__(self) -> str:
        return f"short_paths({self.lengths}, junctions={told(self.junctions)})"

    @contextmanager
    def around(self, model: nn.Module, inputs: Any) -> Iterator[DelayedStep]:
        """Let `step.backward(loss)` take the gradient through short paths; the model is as found afterwards.

        Args:
            model: The network.
            inputs: One batch as the model is called (a tensor, a tuple, a dict), on which the junctions are found.

        Yields:
            The steps. Inside the block, losses of forwards in train mode go back through `step.backward(loss)`;
            `loss.backward()` is refused, for it would know nothing of lengths.

        Raises:
            ValueError: No residual junction, or a longer path than there is.
            RuntimeError: A forward called other additions than the one in which the junctions were found.

        Example:
            >>> with gs.short_paths(5).around(model, images) as step:
            ...     for images, classes in loader:
            ...         optimiser.zero_grad()
            ...         step.backward(loss(model(images), classes))
            ...         optimiser.step()
        """
        crossings, longest = _crossings(model, inputs, self.junctions)
        if self.lengths > longest:
            raise ValueError(
                f"short_paths is asked for lengths up to {self.lengths}, but no path through {type(model).__name__} "
                f"crosses more than {longest} branches. Ask for 0 to {longest}."
            )
        expected = crossings.additions
        step = DelayedStep(self.lengths, type(model).__name__)

        def mark(call: AddCall) -> None:
            # A sum of values that need no gradient has no node, and nothing to delay.
            if model.training and torch.is_grad_enabled() and call.node is not None:
                for way, slots in crossings.by_call.get(call.number, ()):
                    node = _followed(call.node, way)
                    if node is not None:
                        step.delay(node, slots)

        def verify(module: nn.Module, arguments: Any, output: Any) -> None:
            if not model.training or not torch.is_grad_enabled():
                return
            if counter.count != expected:
                raise RuntimeError(
                    f"This forward of {type(model).__name__} called {counter.count} additions, but its junctions "
                    f"were found in one that called {expected}, so lengths would be counted at the wrong places. "
                    "Train on inputs of the same kind as those the junctions were found on."
                )
            step.forwards += 1

        try:
            with additions(model, report=mark) as counter:
                handle = model.register_forward_hook(verify)
                try:
                    yield step
                finally:
                    handle.remove()
        finally:
            step.close()


def short_paths(lengths: int, *, junctions: Asked = None) -> ShortPaths:
    """Train on the gradient through at most `lengths` residual branches: g_0 + ... + g_lengths.

    The forward pass is that of the whole network, and exact in any mode of batch normalisation and with dropout: it is
    not run again. A block's own branch counts as one crossing for the weights inside it, so 0 trains only what lies
    outside of branches; the number of blocks trains on the whole gradient. Costs `lengths` backward passes without the
    products for weights, one ordinary one, and at most two stored cotangents for each branch.

    Args:
        lengths: K, from 0 to the number of junctions.
        junctions: Those whose branches count: junctions of `gs.junctions`, or a pattern of their names. None: the
            outermost that have a skip, as in `path_gradients`.

    Returns:
        An option for `fit(paths=...)`, or for loops of your own by `around`.

    Raises:
        ValueError: No whole number from 0; on entering a training, longer than any path, or a network without
            residual junctions.

    Source:
        Veit et al. (2016), arXiv:1605.06431, for training on effective paths; the exact cut: derived.

    Example:
        >>> gs.fit(model, data, paths=gs.short_paths(5))
    """
    if not isinstance(lengths, int) or isinstance(lengths, bool) or lengths < 0:
        raise ValueError(f"lengths is the most branches a path may cross, from 0, got {lengths!r}.")
    return ShortPaths(lengths, junctions)


@dataclass(frozen=True)
class _Crossings:
    """Where crossings lie in every forward: for each numbered call, ways up from its node, and slots there."""

    by_call: dict[int, list[tuple[tuple[int, ...], frozenset[int]]]]
    additions: int


def _crossings(model: nn.Module, inputs: Any, asked: Asked) -> tuple[_Crossings, int]:
    found, calls, _ = first_forward(model, inputs)
    counted = [j for j in selected(model, found.junctions, asked) if asked is not None or j.outermost]
    by_hand = [j.name for j in counted if isinstance(j, ByHand)]
    if by_hand:
        raise ValueError(
            f"short_paths counts at sums that are found on the graph, and {by_hand[0]} is a junction by hand. Leave it "
            "out, or train with exact_blocks."
        )
    unable = [j.name for j in counted if not found.crossings[j.index]]
    if asked is not None and unable:
        raise ValueError(
            f"Lengths cannot be counted at {', '.join(unable)}, where no skip is told from a branch. Choose others."
        )
    counted = [j for j in counted if found.crossings[j.index]]
    if not counted:
        raise ValueError(no_blocks(model, found.junctions))
    numbers = {call.node: call.number for call in calls if call.node is not None}
    nodes = {number: node for node, number in numbers.items()}
    by_call: dict[int, dict[tuple[int, ...], set[int]]] = {}
    for junction in counted:
        for edge in _edges(found, junction):
            number, way = _place(junction, edge, numbers, nodes, type(model).__name__)
            by_call.setdefault(number, {}).setdefault(way, set()).add(edge.slot)
    frozen = {
        number: [(way, frozenset(slots)) for way, slots in ways.items()] for number, ways in by_call.items()
    }
    return _Crossings(frozen, counted[0].additions), len(counted)


def _edges(found: Trace, junction: Junction) -> Sequence[Edge]:
    return [edge for edges in found.crossings[junction.index] for edge in edges]


def _place(
    junction: Junction, edge: Edge, numbers: dict[Node, int], nodes: dict[int, Node], network: str
) -> tuple[int, tuple[int, ...]]:
    """The numbered call at or below which a node of the graph lies, and the slots that lead up to it."""
    if edge.node in numbers:
        return numbers[edge.node], ()
    number = -1 if junction.number is None else junction.number
    level: list[tuple[Node, tuple[int, ...]]] = [(nodes[number], ())] if number in nodes else []
    for _ in range(_DEEPEST):
        level = [
            (operand, (*way, slot))
            for node, way in level
            for slot, (operand, _) in enumerate(node.next_functions)
            if operand is not None
        ]
        for node, way in level:
            if node is edge.node:
                return number, way
    raise ValueError(
        f"Junction {junction.name} of {network} is not made by an addition called from Python, so lengths cannot be "
        "counted there in every step. Pass junctions= without it."
    )


def _followed(node: Node, way: tuple[int, ...]) -> Node | None:
    for slot in way:
        node = node.next_functions[slot][0]
        if node is None:
            return None
    return node
