"""The fast engine: one traversal of the graph that carries all coefficients, each only where it is not zero."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from gradscope.gradients.engines.agreement import UNGATED, disagreement, disagreement_of_sum
from gradscope.gradients.engines.crossing import Keys
from gradscope.gradients.engines.graph import LiveGraph
from gradscope.gradients.engines.nodes import shapes_in
from gradscope.gradients.engines.order import Place, Ways
from gradscope.gradients.engines.rules import crossed
from gradscope.gradients.engines.stack import Stack, add
from gradscope.instruments.gates.polynomial import Gate, Powers
from gradscope.instruments.junctions import Edge
from gradscope.instruments.junctions.graph import Node

# Of one stack of the largest tensor on the way; members beyond it walk later.
STACK_BYTES = 2**28
# How far from 1, in powers of two, a row may come before it is lifted, and how far it is lifted at once: for float32,
# and where something on the way is float16.
_SINGLE, _HALF = (20, 100), (4, 14)


def walk(
    graph: LiveGraph,
    gates: Mapping[Edge, Gate],
    powers: Powers,
    members: int = 1,
    *,
    lifted: bool = False,
    whole: bool = False,
) -> list[Tensor]:
    """Coefficients of the gated gradient at each target, [members, *powers.shape, *shape], float64.

    Each node is asked once, for all coefficients that reach it at once: below the l-th of n blocks from the loss
    these are l + 1, so that all lengths take n (n + 1) / 2 branch products where n + 1 passes take n (n + 1).
    The memory is that of the stacks alive at once: coefficients and members times the widest cut of the graph.

    The first walk over a graph carries the ungated gradient along and compares it with autograd's, so that a rule
    that does not fit a node cannot go unnoticed. A user's hooks on the way are left to ordinary passes.

    Args:
        graph: The forward pass.
        gates: By edge.
        powers: The coefficients wanted.
        members: Runs with factors of their own.
        lifted: Multiply rows by powers of two that keep them near 1, and divide the results by them.
        whole: The coefficients add up to the ungated gradient, which therefore need not be carried along.

    Raises:
        CannotWalk: Some node cannot be asked alone, or the walk does not give autograd's gradient.
        RuntimeError: No gradient met a gate.
    """
    # Unseen by function modes, which would slow each of many small calls.
    with torch.no_grad(), torch._C.DisableTorchFunction():
        return _walked(graph, gates, powers, members, lifted, whole)


def _walked(
    graph: LiveGraph, gates: Mapping[Edge, Gate], powers: Powers, members: int, lifted: bool, whole: bool
) -> list[Tensor]:
    ways = Ways(graph)
    if not graph.walked and graph.hooks is not None and graph.hooks.on(ways.slots):
        raise CannotWalk(
            "hooks on tensors or modules lie on the way, which only an ordinary backward pass runs"
        )
    _refuse_foreign(ways)
    results = graph.empty(members, *powers.shape)
    met = 0
    for part in _parts(ways, len(powers), members):
        keys = Keys(powers, part, ungated=not (graph.walked or whole))
        journey = _Journey(ways, gates, keys, lifted)
        ungated: dict[int, Tensor] = {}
        for number, stack in journey.run(graph.loss):
            for row, key in zip(stack.settled(), stack.keys, strict=True):
                if key == keys.ungated:
                    ungated[number] = row / UNGATED
                else:
                    member, index = keys.of(key)
                    results[number][(member, *index)] = keys.lowered(key, row)
        if not graph.walked:
            _refuse_difference(
                disagreement_of_sum(graph, results)
                if whole
                else disagreement(graph, [ungated.get(n, zero) for n, zero in enumerate(graph.empty())])
            )
            graph.walked = True
        met += journey.met
    if gates and not met:
        raise RuntimeError("No gradient met a gate, so the split would be wrong. Please report this model.")
    if lifted and not all(result.isfinite().all() for result in results):
        raise CannotWalk("its coefficients differ by more than powers of two can level")
    return results


class CannotWalk(RuntimeError):
    """A graph that has to be left to ordinary backward passes, with the reason."""


class _Journey:
    """One traversal: what has arrived where, and has not yet been handed on."""

    def __init__(self, ways: Ways, gates: Mapping[Edge, Gate], keys: Keys, lifted: bool) -> None:
        self.ways, self.gates, self.keys, self.lifted = ways, gates, keys, lifted
        self.met = 0
        self._arrived: dict[Place, Stack] = {}
        self._gated = {edge.node for edge in gates}

    def run(self, loss: Tensor) -> Iterator[tuple[int, Stack]]:
        """Walk; hand over each target's number with its stack when that is complete."""
        first = self.keys.first()
        seeds = [UNGATED if key == self.keys.ungated else 1.0 for key in first]
        self._arrived[self.ways.root] = Stack(first, loss.new_tensor(seeds))
        for node in self.ways.nodes():
            arrived = [self._arrived.pop((node, number), None) for number in range(len(shapes_in(node)))]
            for number, stack in enumerate(arrived):
                if stack is not None:
                    yield from ((target, stack) for target in self.ways.wanted.get((node, number), ()))
            slots = self.ways.slots[node]
            if not slots or all(stack is None for stack in arrived):
                continue
            self._hand_on(node, arrived, slots)
            if self.lifted and node in self._gated:
                half = any(stack.values.dtype is torch.float16 for stack in self._arrived.values())
                self._lift(*(_HALF if half else _SINGLE))

    def _hand_on(self, node: Node, arrived: list[Stack | None], slots: Sequence[int]) -> None:
        try:
            found = crossed(node, arrived, slots)
        except Exception as error:
            # A user's own backward may raise anything, and raises it again in an ordinary pass.
            raise CannotWalk(f"{node.name()} says: {error}") from error
        arrived.clear()
        operands = self.ways.operands[node]
        for slot in slots:
            stack = found.pop(slot)
            gate = self.gates.get(Edge(node, slot))
            if gate is not None and stack is not None:
                self.met += 1
                stack = self.keys.crossed(stack, gate)
            if stack is not None:
                self._put(operands[slot], stack)

    def _put(self, place: Place, stack: Stack) -> None:
        before = self._arrived.get(place)
        self._arrived[place] = stack if before is None else add(before, stack)

    def _lift(self, reach: int, limit: int) -> None:
        """Bring rows near 1 whose largest number is not, wherever they wait."""
        largest: dict[int, float] = {}
        for stack in self._arrived.values():
            values = stack.settled()
            axes = tuple(range(1, values.ndim))
            sizes = torch.maximum(values.amax(dim=axes), -values.amin(dim=axes)).tolist()
            for key, size in zip(stack.keys, sizes, strict=True):
                largest[key] = max(largest.get(key, 0.0), size)
        steps = {
            key: max(-limit, min(limit, -math.frexp(size)[1]))
            for key, size in largest.items()
            if key != self.keys.ungated
            and math.isfinite(size)
            and size > 0
            and abs(math.frexp(size)[1]) > reach
        }
        if not steps:
            return
        for key, step in steps.items():
            self.keys.exponents[key] = self.keys.exponents.get(key, 0) + step
        for place, stack in self._arrived.items():
            rows = [(key, row, math.ldexp(1.0, steps.get(key, 0))) for row, key in enumerate(stack.keys)]
            moved = stack.shared().rows(rows)
            if moved is not None:
                self._arrived[place] = moved


def _parts(ways: Ways, coefficients: int, members: int) -> Iterator[range]:
    """Members in such numbers that their stacks fit."""
    largest = max((math.prod(shape) for node in ways.slots for shape in shapes_in(node)), default=1)
    step = max(1, STACK_BYTES // (8 * max(1, largest) * coefficients))
    return (range(first, min(first + step, members)) for first in range(0, members, step))


def _refuse_foreign(ways: Ways) -> None:
    """Saved tensors that are made anew when read, and numbers that are not real, are left to autograd."""
    for node, slots in ways.slots.items():
        if not slots:
            continue
        for metadata in node._input_metadata:
            if metadata.dtype.is_complex or metadata.is_nested_tensor:
                raise CannotWalk(f"{node.name()} works on complex numbers or nested tensors")
        for name in _saved_names(node):
            saved = getattr(node, name)
            for tensor in saved if isinstance(saved, tuple | list) else (saved,):
                if getattr(tensor, "unpack_hook", None) is not None:
                    raise CannotWalk(f"{node.name()} recomputes what it saved, as checkpoints do")


_NAMES: dict[type, tuple[str, ...]] = {}


def _saved_names(node: Node) -> tuple[str, ...]:
    kind = type(node)
    if kind not in _NAMES:
        _NAMES[kind] = tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))
    return _NAMES[kind]


def _refuse_difference(off: float) -> None:
    # Written so that what is not a number is refused too.
    if off != 0:
        raise CannotWalk(
            "the walk does not give autograd's gradient, since hooks change gradients on their way, or backward "
            "passes differ from one another"
        )
