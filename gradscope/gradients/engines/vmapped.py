"""All coefficients by one batched backward pass, in which gates act on the whole stack."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from gradscope.gradients.engines.agreement import UNGATED, disagreement, disagreement_of_sum
from gradscope.gradients.engines.graph import LiveGraph
from gradscope.instruments.gates.polynomial import Gate, Powers
from gradscope.instruments.junctions import Edge
from gradscope.instruments.junctions.graph import Node


class GateOfStack(torch.autograd.Function):
    """A gate on a stack of cotangents that only a batching rule sees whole.

    Batchings that do not know such rules would run the forward for each cotangent alone, where a gate that moves
    coefficients could only be the identity: so the forward raises.
    """

    @staticmethod
    def forward(gradient: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        raise RuntimeError(
            "A gate on a stack of cotangents was run without torch.vmap (is_grads_batched=True batches in an older "
            "way, which hides the stack), and would be ignored. Take engine='walk' or 'passes'."
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], gradient: Tensor, act: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, int]:
        where = in_dims[0]
        if where is None:
            stack = gradient.expand(info.batch_size, *gradient.shape)
        else:
            stack = gradient.movedim(where, 0)
        return act(stack), 0


def vmapped(
    graph: LiveGraph,
    gates: Mapping[Edge, Gate],
    powers: Powers,
    members: int = 1,
    lifted: bool = False,
    whole: bool = False,
) -> list[Tensor]:
    """Coefficients of the gated gradient at each target, [members, *powers.shape, *shape], float64.

    One backward pass under torch.vmap, of all coefficients and members at once, so that their number multiplies the
    memory of a backward pass. The first one over a graph carries the ungated gradient along and compares it with
    autograd's, since batching rules may be wrong (that of the backward of torch.cdist is).

    Args:
        graph: The forward pass.
        gates: By edge.
        powers: The coefficients wanted.
        members: Runs with factors of their own.
        lifted: Cannot be had: what has crossed some gates is nowhere seen apart, so that nothing says how far to lift.
        whole: The coefficients add up to the ungated gradient, which therefore need not be carried along.

    Raises:
        ValueError: `lifted`.
        RuntimeError: No gradient met a gate; the batched backward pass does not give autograd's gradient.
    """
    if lifted:
        raise ValueError(
            "engine='vmap' cannot keep float32 clear of underflow over so many lengths. Take precision=torch.float64, "
            "at most 30 lengths, or engine='walk' or 'passes'."
        )
    counted = members * len(powers)
    seeds = graph.loss.new_zeros(counted if graph.batched or whole else counted + 1)
    seeds[: counted : len(powers)] = 1
    seeds[counted:] = UNGATED
    places: list[Any] = [target.place for target in graph.targets]
    present: list[int] = []

    def backward(seed: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(graph.loss, places, seed, retain_graph=True, allow_unused=True)
        present[:] = [number for number, gradient in enumerate(found) if gradient is not None]
        # The seed too, since vmap wants at least one result.
        return (seed, *(gradient for gradient in found if gradient is not None))

    with stack_gates(gates, powers, members) as met, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop.*")
        found = torch.vmap(backward)(seeds)[1:]
    if gates and not met:
        raise RuntimeError("No gradient met a gate, so the split would be wrong. Please report this model.")
    results = graph.empty(members, *powers.shape)
    for number, gradients in zip(present, found, strict=True):
        results[number].copy_(gradients[:counted].view(results[number].shape))
    if not graph.batched:
        ungated = graph.empty()
        for number, gradients in zip(present, found, strict=True):
            ungated[number].copy_(gradients[-1] / UNGATED)
        _refuse_difference(disagreement_of_sum(graph, results) if whole else disagreement(graph, ungated))
        graph.batched = True
    return results


def _refuse_difference(off: float) -> None:
    if off > 0:
        raise RuntimeError(
            f"Under torch.vmap this graph's backward pass differs from autograd's by {off:.1e} of its size: either the "
            "batching rule of some operation is wrong (that of torch.cdist is), or the pass is not linear or not the "
            "same each time. Take engine='auto', 'walk' or 'passes'."
        )


@contextmanager
def stack_gates(gates: Mapping[Edge, Gate], powers: Powers, members: int) -> Iterator[set[Edge]]:
    """While the block lasts, gates that act on stacks of [members * coefficients] cotangents under torch.vmap.

    Yields:
        The edges that a cotangent has met.
    """
    met: set[Edge] = set()
    by_node: dict[Node, dict[int, Callable[[Tensor], Tensor]]] = {}
    for edge, gate in gates.items():
        by_node.setdefault(edge.node, {})[edge.slot] = _acting(edge, gate, powers, members, met)
    with ExitStack() as stack:
        for node, acts in by_node.items():
            stack.callback(node.register_hook(_hook(acts)).remove)
        yield met


def _hook(acts: Mapping[int, Callable[[Tensor], Tensor]]) -> Callable[[Any, Any], tuple[Tensor | None, ...]]:
    def hook(inputs: tuple[Tensor | None, ...], outputs: Any) -> tuple[Tensor | None, ...]:
        return tuple(
            GateOfStack.apply(gradient, acts[slot]) if slot in acts and gradient is not None else gradient
            for slot, gradient in enumerate(inputs)
        )

    return hook


def _acting(
    edge: Edge, gate: Gate, powers: Powers, members: int, met: set[Edge]
) -> Callable[[Tensor], Tensor]:
    """The gate as a function of a stack, [members * coefficients, *shape] or one row more."""
    counted = members * len(powers)

    def act(stack: Tensor) -> Tensor:
        met.add(edge)
        shape = stack.shape[1:]
        # The last row, if there is one more than coefficients, is the ungated gradient.
        stack, ungated = stack[:counted], stack[counted:]
        rows = stack.reshape(members, *powers.shape, math.prod(shape))
        factors = torch.tensor(
            [gate.of(member) for member in range(members)], dtype=rows.dtype, device=rows.device
        )
        rows = rows * factors.view(-1, *[1] * (rows.ndim - 1))
        if gate.variable is None:
            return torch.cat([(rows * gate.constant).view(-1, *shape), ungated])
        moved = torch.zeros_like(rows)
        axis, degree = 1 + gate.variable, powers.degrees[gate.variable]
        moved.narrow(axis, 1, degree).copy_(rows.narrow(axis, 0, degree))
        moved = moved + gate.constant * rows if gate.constant else moved
        return torch.cat([moved.view(-1, *shape), ungated])

    return act
