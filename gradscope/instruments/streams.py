"""What flows through the residual junctions of a network in one forward pass, and where its gradients are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode

from gradscope.instruments.junctions.calls import Plan, additions
from gradscope.instruments.junctions.edges import edge_of, fork_of
from gradscope.instruments.junctions.graph import Node
from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.junctions.operand_factors import Factor, factors_within, operand_factor

Slot = tuple[int, int]


@dataclass(eq=False)
class Stream:
    """One junction in one forward pass. Tensors are detached copies, [N, ...], of one shape.

    Attributes:
        junction: Which.
        skip: The skip operand: the block's input, or, where the block projects, what the skip makes of it.
        base: What the sum makes of the skip, and what is left of the sum if the branch is closed: the skip
            itself, or in weighted sums its multiple, such as (1 - w) skip in `lerp(skip, f, w)`.
        branch: What the block adds to that, sum - base, such as w f in that `lerp`; exact where the call is a
            plain addition.
        total: The sum.
        after: Result of the first function that was called with the sum as its first argument and kept its
            shape, such as the ReLU behind it; None if there is none.
        skip_edge, total_edge, after_edge: Where `torch.autograd.grad` finds the gradient at these, as they
            were before anything changed them in place; None outside of the graph.
        input_edge: Where it finds the gradient at the block's input, if the skip is that input or a copy of it
            (kind identity): a copy for the skip alone, as in `x.clone() + f(x)`, has another gradient.
    """

    junction: Junction
    skip: Tensor
    base: Tensor
    branch: Tensor
    total: Tensor
    after: Tensor | None = None
    skip_edge: GradientEdge | None = None
    total_edge: GradientEdge | None = None
    after_edge: GradientEdge | None = None
    input_edge: GradientEdge | None = None


@contextmanager
def streams(model: nn.Module, junctions: Sequence[Junction]) -> Iterator[list[Stream]]:
    """Hear what flows through junctions while somebody else runs the network; nothing is changed.

    Args:
        model: The network in which the junctions were found.
        junctions: Of graded kinds, in forward order.

    Yields:
        A list with one stream per junction, filled anew by every forward. Copies of three to four tensors a
        junction are held, and as long as the list lives, the graph of its latest forward. Inside a gate on
        branches, `skip` and `total` are those of the gated network and `branch` is their difference.

    Raises:
        ValueError: A junction without skip and branch operands that were called from Python.
        RuntimeError: A forward in the block called another number of additions than the one in which the
            junctions were found, so that their numbers no longer hold.
    """
    for junction in junctions:
        one = junction.graded and junction.branches and len(junction.skips) == 1
        if not one or junction.number is None:
            raise ValueError(
                f"Junction {junction.name} is of kind {junction.kind}, and one skip and a branch cannot be told "
                "apart in calls from Python, so its streams cannot be heard. Choose identity, projection or "
                "nonparam-skip junctions with one skip operand."
            )
    heard: list[Stream] = []
    operands: dict[Slot, tuple[Tensor, GradientEdge | None]] = {}
    fresh: list[Slot] = []
    nodes: dict[Slot, Node | None] = {}
    due: list[Junction] = []
    stacked: list[Tensor] = []

    def listen(slot: Slot, ends: Junction | None, operand: Tensor) -> Tensor:
        operands[slot] = operand.detach().clone(), edge_of(operand)
        fresh.append(slot)
        if ends is not None:
            due.append(ends)
        return operand

    # Slot 0 of the call that makes the sum is always heard, to know which call that is.
    ends = {(junction.number, 0): junction for junction in junctions if junction.number is not None}
    wanted = {slot for junction in junctions for slot in (*junction.branches, *junction.skips)} | set(ends)
    plan: Plan = {slot: partial(listen, slot, ends.get(slot)) for slot in wanted}

    def summed(result: Tensor, argument: Any) -> Stream | None:
        # Read at once: a later call in place would give the tensor another node.
        nodes.update((slot, result.grad_fn) for slot in fresh)
        fresh.clear()
        if not due or due[-1].skips[0] not in operands:
            return None
        if stacked and argument is not stacked[0]:
            return None
        stacked.clear()
        if result.ndim != len(due[-1].shape):
            # Operands were stacked, and what is called with the stack next adds them up.
            stacked.append(result)
            return None
        junction = due.pop()
        skip, skip_edge = operands[junction.skips[0]]
        total = result.detach().clone()
        # What the branch adds is worked out after the forward: a subtraction here would be numbered too.
        heard.append(
            Stream(junction, skip, skip, total, total, skip_edge=skip_edge, total_edge=edge_of(result))
        )
        return heard[-1]

    def start(module: nn.Module, arguments: Any) -> None:
        heard.clear()
        operands.clear()
        fresh.clear()
        nodes.clear()
        due.clear()
        stacked.clear()
        results.latest = None

    def verify(module: nn.Module, arguments: Any, output: Any) -> None:
        results.latest = None
        expected = {junction.additions for junction in junctions} - {counter.count}
        if expected or len(heard) != len(junctions):
            raise RuntimeError(
                f"This forward of {type(model).__name__} called {counter.count} additions, but its junctions "
                f"were found in one that called {min(expected, default=counter.count)}, so other tensors would "
                "be heard. Find the junctions on inputs of the same kind and in the same mode."
            )
        for stream in heard:
            _complete(stream, operands, _factors(stream, nodes))
        operands.clear()
        nodes.clear()

    with additions(model, plan) as counter, _Results(summed) as results:
        handles = [model.register_forward_pre_hook(start), model.register_forward_hook(verify)]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()


def _factors(stream: Stream, nodes: Mapping[Slot, Node | None]) -> dict[Slot, Factor]:
    """By what the sum multiplies the operands of which the graph tells it."""
    if stream.total_edge is None:
        return {}
    slots = (*stream.junction.skips, *stream.junction.branches)
    calls = {node for slot in slots if (node := nodes.get(slot)) is not None}
    within, factors = factors_within(stream.total_edge.node, calls), {}
    for slot in slots:
        node = nodes.get(slot)
        own = operand_factor(node, slot[1]) if node in within else None
        if node is not None and own is not None:
            factors[slot] = within[node] * own
    return factors


def _complete(
    stream: Stream,
    operands: Mapping[Slot, tuple[Tensor, GradientEdge | None]],
    factors: Mapping[Slot, Factor],
) -> None:
    """Fill in what the sum makes of its operands, and where the block's input is."""
    skip, slots = stream.junction.skips[0], stream.junction.branches
    stream.base = _times(factors.get(skip, 1.0), stream.skip)
    told = [_times(factors.get(slot, 1.0), operands[slot][0]) for slot in slots]
    stream.branch = _contribution(stream.total, stream.base, told)
    if stream.junction.kind == "identity" and stream.skip_edge is not None:
        ends = [edge for slot in slots if (edge := operands[slot][1]) is not None]
        stream.input_edge = fork_of(stream.skip_edge, ends)


def _times(factor: Factor, operand: Tensor) -> Tensor:
    return operand if not isinstance(factor, Tensor) and factor == 1 else factor * operand


def _contribution(total: Tensor, base: Tensor, operands: Sequence[Tensor]) -> Tensor:
    """What was added to the base: the branches, or their negative in a subtraction, if the sum says so.

    The difference sum - base is always right but rounded, which would swamp a branch far smaller than the
    stream.
    """
    difference = total - base
    if any(operand.shape != total.shape for operand in operands):
        return difference
    branches = sum(operands[1:], operands[0])
    misfits = [float((difference - sign * branches).norm()) for sign in (1, -1)]
    rounding = 8 * torch.finfo(total.dtype).eps * float(total.norm() + base.norm() + branches.norm())
    sign = 1 if misfits[0] <= misfits[1] else -1
    return sign * branches if min(misfits) <= rounding else difference


class _Results(TorchFunctionMode):
    """Sees the result of the call in which a junction's last operand was heard, and what is done with it."""

    def __init__(self, summed: Callable[[Tensor, Any], Stream | None]) -> None:
        super().__init__()
        self.summed = summed
        self.latest: tuple[Tensor, Stream] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = self.latest if self.latest and args and args[0] is self.latest[0] else None
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        if waiting is not None:
            self.latest = None
            if result.shape == waiting[1].total.shape:
                waiting[1].after, waiting[1].after_edge = result.detach().clone(), edge_of(result)
        stream = self.summed(result, args[0] if args else None)
        if stream is not None:
            self.latest = result, stream
        return result
