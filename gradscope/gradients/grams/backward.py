"""One forward and one backward pass of a batch, in which every layer's gradients become Grams at once."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradscope.gradients.engines.nodes import shapes_in
from gradscope.gradients.grams.asking import DoesNotAddUp, asked
from gradscope.gradients.grams.chains import Chain, chain
from gradscope.gradients.grams.layers import Layer
from gradscope.gradients.grams.outputs import Outputs
from gradscope.gradients.grams.pieces import Use, of_uses
from gradscope.gradients.grams.result import OUTPUT_NOT_REACHED
from gradscope.gradients.grams.rules import Arrival, has_rule, terms_of
from gradscope.gradients.grams.scaled import Scaled, ScaledGram
from gradscope.gradients.grams.structure import Structure, structure
from gradscope.gradients.grams.terms import FALLBACK, Combined, Dense, Term
from gradscope.instruments.junctions.graph import Node

Place = tuple[Node, int]


@dataclass
class Found:
    """What one pass gives.

    Attributes:
        parameters: By `id` of the parameter.
        outputs: By the layer's name.
        left: Parameters (by id) whose uses could not be followed, with the reason.
        outputs_left: Layers whose output gradients could not be had, with the reason.
        unknown: Parameters (by id) whose gradients of single examples contradict that of their sum.
        mixed: Examples could not be told apart everywhere, so that outputs too are left to single examples.
    """

    parameters: dict[int, Combined] = field(default_factory=dict)
    outputs: dict[str, ScaledGram] = field(default_factory=dict)
    left: dict[int, str] = field(default_factory=dict)
    outputs_left: dict[str, str] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    mixed: bool = False


def one_pass(
    values: Tensor,
    layers: Sequence[Layer],
    outputs: Outputs,
    sources: Sequence[Tensor],
    integers: Sequence[Tensor],
) -> Found:
    """Run the backward pass of `values` [B] and hand over the Grams."""
    with torch._C.DisableTorchFunction():
        work = _Pass(structure(values, sources, integers), layers, outputs, len(values))
    work.run(values)
    return work.found


class _Pass:
    """What is expected at which node, and what has come."""

    def __init__(self, graph: Structure, layers: Sequence[Layer], outputs: Outputs, examples: int) -> None:
        self.graph, self.examples, self.found = graph, examples, Found(mixed=bool(graph.why))
        self.wanted = {id(p): p for layer in layers for p in layer.parameters.values()}
        self.chains: dict[Node, dict[int, Chain]] = {}
        self.expected: dict[int, int] = {}
        self.pending: dict[int, list[Use]] = {}
        self.to_ask: dict[Node, list[int]] = {}
        self.later: list[tuple[Arrival, dict[int, Chain]]] = []
        self.fallback: set[int] = set()
        self.outputs: dict[Node, dict[int, list[str]]] = {}
        self.outputs_expected: dict[str, int] = {}
        self._last: tuple[Tensor, Scaled] | None = None
        self._plan_parameters()
        self._plan_outputs(outputs)

    def run(self, values: Tensor) -> None:
        needed = [node for node in self.graph.order if node in self.chains or node in self.outputs]
        if not needed:
            return
        edges = [GradientEdge(n, i) for n in self._last_ones(needed) for i in range(len(shapes_in(n)))]
        captured = {edge.node for edge in edges}
        with ExitStack() as stack:
            for node in needed:
                if node not in captured:
                    handle = node.register_prehook(partial(self._arrived, node))
                    stack.callback(handle.remove)
            gradients = torch.autograd.grad(
                values.sum(), edges, allow_unused=True, retain_graph=bool(self.to_ask) or None
            )
        by_node: dict[Node, list[Tensor | None]] = {}
        for edge, gradient in zip(edges, gradients, strict=True):
            by_node.setdefault(edge.node, []).append(gradient)
        del gradients
        for node in list(by_node):
            self._arrived(node, by_node.pop(node))
        with torch.no_grad():
            for arrival, chains in self.later:
                self._take(arrival, chains, asked)
        for name in self.outputs_expected:
            if name in self.found.outputs:
                self.found.outputs_left[name] = OUTPUT_NOT_REACHED
                del self.found.outputs[name]

    def _plan_parameters(self) -> None:
        chains: dict[Place, Chain | None] = {}
        for node, slots in self.graph.taking.items():
            for slot in slots:
                place = self.graph.operands[node][slot]
                if place not in chains:
                    chains[place] = chain(*place)
                made = chains[place]
                wanted = [] if made is None else [id(p) for p in made.parameters if id(p) in self.wanted]
                for key in wanted:
                    if node not in self.graph.apart:
                        self.found.left.setdefault(key, self.graph.why)
                if made is not None and wanted and node in self.graph.apart:
                    self.chains.setdefault(node, {})[slot] = made
                    if not has_rule(node, slot, self.graph.layouts[node]):
                        self.to_ask.setdefault(node, []).append(slot)
                    for key in wanted:
                        self.expected[key] = self.expected.get(key, 0) + 1
        for node in self.graph.order:
            variable = getattr(node, "variable", None)
            if id(variable) in self.wanted and id(variable) not in self.expected:
                self.found.left.setdefault(id(variable), self.graph.why)
        for key in self.found.left:
            self.expected.pop(key, None)

    def _plan_outputs(self, outputs: Outputs) -> None:
        known = set(self.graph.order)
        for name, edges in outputs.items():
            reached = [edge for edge in edges if edge.node in known]
            apart = [
                e
                for e in reached
                if e.output_nr in self.graph.layouts.get(e.node, {}) and e.node in self.graph.apart
            ]
            if not reached or len(apart) < len(reached):
                why = self.graph.why or "its output does not count the examples along one axis"
                self.found.outputs_left[name] = why if reached else OUTPUT_NOT_REACHED
                continue
            self.outputs_expected[name] = len(apart)
            for edge in apart:
                self.outputs.setdefault(edge.node, {}).setdefault(edge.output_nr, []).append(name)

    def _last_ones(self, needed: Sequence[Node]) -> list[Node]:
        """The needed nodes with no other needed node behind them, which would not be run otherwise."""
        wanted, above = set(needed), set()
        for node in self.graph.order:
            if any(o in wanted or o in above for o, _ in self.graph.operands[node] if o is not None):
                above.add(node)
        return [node for node in needed if node not in above]

    def _arrived(self, node: Node, cotangents: Sequence[Tensor | None]) -> None:
        # Many small calls, unseen by function modes, which would slow each of them.
        with torch.no_grad(), torch._C.DisableTorchFunction():
            layouts = self.graph.layouts[node]
            first = cotangents[0]
            scaled = None if first is None or 0 not in layouts else self._scaled(layouts[0].by_example(first))
            for number, names in self.outputs.get(node, {}).items():
                self._output(names, cotangents[number], node, number, scaled if number == 0 else None)
            chains = self.chains.get(node)
            if chains is None:
                return
            chains = {slot: made for slot, made in chains.items() if self._open(made)}
            if not chains or all(cotangent is None for cotangent in cotangents):
                for made in chains.values():
                    self._count(made)
                return
            arrival = Arrival(node, cotangents, layouts, scaled)
            to_ask = {slot: made for slot, made in chains.items() if slot in self.to_ask.get(node, ())}
            if to_ask:
                # Inside of this backward pass the node would leave out what the pass does not need.
                self.later.append((Arrival(node, tuple(cotangents), layouts, None), to_ask))
            self._take(arrival, {slot: made for slot, made in chains.items() if slot not in to_ask}, terms_of)

    def _open(self, made: Chain) -> bool:
        return any(id(p) in self.expected for p in made.parameters)

    def _take(
        self,
        arrival: Arrival,
        chains: dict[int, Chain],
        found_by: Callable[[Arrival, Sequence[int]], dict[int, Term]],
    ) -> None:
        try:
            terms = found_by(arrival, list(chains))
        except DoesNotAddUp as error:
            for made in chains.values():
                self._give_up(made, str(error))
            return
        for slot, made in chains.items():
            term = terms[slot]
            uses = [(made, term)] if not made.computed else self._pulled(made, term.rows())
            for use in uses:
                key = id(use[0].parameters[0])
                if key in self.expected:
                    self.pending.setdefault(key, []).append(use)
                    if found_by is asked or made.computed:
                        self.fallback.add(key)
            self._count(made)

    def _pulled(self, made: Chain, rows: Tensor) -> list[Use]:
        """Per-example gradients at an operand as those at the parameters it is computed from."""
        back = [made.pulled_back(row.view(made.shape)) for row in rows]
        return [
            (Chain(made.edge, p.shape, (p,)), Dense(torch.stack([parts[place].flatten() for parts in back])))
            for place, p in enumerate(made.parameters)
        ]

    def _count(self, made: Chain) -> None:
        for parameter in made.parameters:
            key = id(parameter)
            if key not in self.expected:
                continue
            self.expected[key] -= 1
            if not self.expected[key]:
                del self.expected[key]
                uses = self.pending.pop(key, None)
                if uses:
                    self.found.parameters[key] = self._named(key, of_uses(uses))

    def _named(self, key: int, gram: Combined) -> Combined:
        if key in self.fallback:
            gram.engine = FALLBACK
        return gram

    def _give_up(self, made: Chain, why: str) -> None:
        for parameter in made.parameters:
            self.expected.pop(id(parameter), None)
            self.pending.pop(id(parameter), None)
            self.found.left[id(parameter)] = why

    def _output(
        self, names: Sequence[str], cotangent: Tensor | None, node: Node, number: int, scaled: Scaled | None
    ) -> None:
        gram: ScaledGram | None = None
        if cotangent is not None:
            scaled = scaled or Scaled(self.graph.layouts[node][number].by_example(cotangent))
            gram = ScaledGram(scaled.rows_gram, scaled.log_scale)
        for name in names:
            if gram is not None:
                before = self.found.outputs.get(name)
                self.found.outputs[name] = gram if before is None else before + gram
            self.outputs_expected[name] -= 1
            if not self.outputs_expected[name]:
                del self.outputs_expected[name]

    def _scaled(self, gradients: Tensor) -> Scaled:
        """Cotangents of a view and of what it views are the same numbers, whose scale is taken out once."""
        if self._last is not None:
            other, scaled = self._last
            same = other.data_ptr() == gradients.data_ptr() and other.numel() == gradients.numel()
            if (
                same
                and other.is_contiguous()
                and gradients.is_contiguous()
                and other.dtype == gradients.dtype
            ):
                return scaled.viewed(gradients.shape)
        scaled = Scaled(gradients)
        self._last = (gradients, scaled)
        return scaled
