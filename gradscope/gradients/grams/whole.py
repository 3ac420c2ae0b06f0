"""One backward pass of the whole network for each example: slow, and right wherever autograd is."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from gradscope.gradients.engines.nodes import shapes_in
from gradscope.gradients.grams.backward import NOT_REACHED
from gradscope.gradients.grams.rules import adds_up
from gradscope.gradients.grams.scaled import Scaled, ScaledGram

# Numbers of per-example gradients held at once; the parameters of larger layers are taken one layer after the other.
NUMBERS = 2**26


def parameters_one_by_one(values: Tensor, parameters: Sequence[nn.Parameter]) -> dict[int, ScaledGram | None]:
    """Gram of each parameter, by its id; those the values do not depend on are left out.

    None where the examples' gradients do not add up to autograd's gradient of the sum of all values.

    Args:
        values: One for each example, [B], with their graph.
        parameters: Wanted.
    """
    found: dict[int, ScaledGram | None] = {}
    for group in _groups(parameters, len(values)):
        total = torch.autograd.grad(values.sum(), group, retain_graph=True, allow_unused=True)
        rows: dict[int, list[Tensor]] = {id(parameter): [] for parameter in group}
        reached: set[int] = set()
        for value in values:
            gradients = torch.autograd.grad(value, group, retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(group, gradients, strict=True):
                if gradient is not None:
                    reached.add(id(parameter))
                rows[id(parameter)].append(_or_zeros(gradient, parameter))
        for parameter, whole in zip(group, total, strict=True):
            key = id(parameter)
            if key in reached:
                stacked = torch.stack(rows.pop(key))
                right = adds_up(stacked, _or_zeros(whole, parameter))
                found[key] = _gram(stacked) if right else None
    return found


def outputs_one_by_one(
    values: Tensor, outputs: Mapping[str, Sequence[GradientEdge]]
) -> tuple[dict[str, ScaledGram], dict[str, str]]:
    """Gram of each layer's output gradients, where the first axis of the output counts the examples, else the reason.

    An example's row is the gradient of its own value at its own rows of the output.
    """
    examples, reasons = len(values), {}
    flat: list[tuple[str, GradientEdge]] = []
    for name, edges in outputs.items():
        shapes = [shapes_in(edge.node)[edge.output_nr] for edge in edges]
        if all(shape and shape[0] == examples for shape in shapes):
            flat += [(name, edge) for edge in edges]
        else:
            reasons[name] = "its output does not count the examples along the first axis"
    rows: dict[str, list[Tensor]] = {}
    reached: set[str] = set()
    for example, value in enumerate(values if flat else ()):
        gradients = torch.autograd.grad(
            value, [edge for _, edge in flat], retain_graph=True, allow_unused=True
        )
        parts: dict[str, list[Tensor]] = {}
        for (name, edge), gradient in zip(flat, gradients, strict=True):
            shape = shapes_in(edge.node)[edge.output_nr]
            part = values.new_zeros(shape[1:]) if gradient is None else gradient[example]
            parts.setdefault(name, []).append(part.flatten())
            if gradient is not None:
                reached.add(name)
        for name, pieces in parts.items():
            rows.setdefault(name, []).append(torch.cat(pieces))
    for name in rows.keys() - reached:
        reasons[name] = NOT_REACHED
    return {name: _gram(torch.stack(rows[name])) for name in rows if name in reached}, reasons


def _gram(rows: Tensor) -> ScaledGram:
    scaled = Scaled(rows)
    return ScaledGram(scaled.rows_gram, scaled.log_scale)


def _groups(parameters: Sequence[nn.Parameter], examples: int) -> list[list[nn.Parameter]]:
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        size = parameter.numel() * examples
        if not groups or size > room:
            groups.append([])
            room = NUMBERS
        groups[-1].append(parameter)
        room -= size
    return groups


def _or_zeros(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return parameter.new_zeros(parameter.numel()) if gradient is None else gradient.flatten()
