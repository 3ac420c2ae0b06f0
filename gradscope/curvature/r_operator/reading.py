"""The autograd graph of a loss as a list of steps, each with its rule."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.r_operator.convolution import NormalisedConvolution, foldable
from gradscope.curvature.r_operator.rule import NoRule, Rule
from gradscope.curvature.r_operator.rules import rule_for
from gradscope.instruments.junctions.graph import Node, gradient_node


@dataclass
class Step:
    """One node (or two folded into one) on the way up.

    Attributes:
        node: What takes the cotangent of the result.
        rule: How tangents cross it.
        operands: Their places; None for what does not depend on the parameters.
        results: The places of its results.
    """

    node: Any
    rule: Rule
    operands: list[int | None]
    results: list[int]


@dataclass
class Reading:
    """A graph read once.

    Attributes:
        steps: Operands first.
        shapes: Of the places, which are the values in the graph that depend on parameters.
        leaves: Place of each parameter, by its number.
    """

    steps: list[Step] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)
    leaves: dict[int, int] = field(default_factory=dict)


def read(loss: Tensor, parameters: Sequence[Tensor]) -> Reading:
    """Find the nodes between the parameters and the loss, and the rule of each.

    Raises:
        NoRule: One of them has none; or something acts on gradients that is in no rule.
    """
    reading = Reading()
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    kind = {(parameter.dtype, parameter.device) for parameter in parameters}
    places: dict[tuple[Node, int], int] = {}
    live: list[tuple[Node, list[int | None]]] = []
    uses: Counter[tuple[Node, int]] = Counter()
    for node, operands in _operands_first(loss).items():
        variable = getattr(node, "variable", None)
        if variable is not None:
            if variable._backward_hooks:
                raise NoRule("a parameter has gradient hooks")
            if id(variable) in numbers:
                reading.leaves[numbers[id(variable)]] = places[node, 0] = _new(reading, variable.shape)
            continue
        found = [places.get(operand) for operand in operands]
        if all(place is None for place in found):
            continue
        uses.update(operands)
        for number, metadata in enumerate(node._input_metadata):
            if number == 0 and {(metadata.dtype, metadata.device)} != kind:
                raise NoRule(f"{node.name()} works on {metadata.dtype}, unlike the parameters")
            places[node, number] = _new(reading, torch.Size(metadata.shape))
        live.append((node, found))
    reading.steps = _steps(live, places, uses)
    return reading


def _new(reading: Reading, shape: torch.Size) -> int:
    reading.shapes.append(shape)
    return len(reading.shapes) - 1


def _steps(
    live: list[tuple[Node, list[int | None]]],
    places: dict[tuple[Node, int], int],
    uses: Counter[tuple[Node, int]],
) -> list[Step]:
    operands = dict(live)
    folded: dict[Node, Node] = {}
    for node, _ in live:
        before = node.next_functions[0][0] if node.next_functions else None
        if before in operands and uses[before, 0] == 1 and foldable(before, node):
            folded[node] = before
    inside = set(folded.values())
    steps = []
    for node, found in live:
        if node in inside:
            continue
        results = [places[node, number] for number in range(len(node._input_metadata))]
        if node in folded:
            found = operands[folded[node]] + found[1:]
            wanted = [place is not None for place in found]
            steps.append(Step(node, NormalisedConvolution(folded[node], node, wanted), found, results))
        else:
            steps.append(Step(node, rule_for(node, [place is not None for place in found]), found, results))
    return steps


def _operands_first(loss: Tensor) -> dict[Node, tuple[tuple[Any, int], ...]]:
    """All nodes behind the loss with their operands."""
    operands: dict[Node, tuple[tuple[Any, int], ...]] = {}
    order: dict[Node, tuple[tuple[Any, int], ...]] = {}
    stack: list[tuple[Any, bool]] = [(gradient_node(loss), False)]
    while stack:
        node, done = stack.pop()
        if done:
            order[node] = operands[node]
        elif node is not None and node not in operands:
            operands[node] = node.next_functions
            stack.append((node, True))
            stack.extend((operand, False) for operand, _ in operands[node])
    return order
