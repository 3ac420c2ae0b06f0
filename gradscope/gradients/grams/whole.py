"""One backward pass of the whole network for each example: slow, and right wherever autograd is."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from gradscope.gradients.engines.nodes import shapes_in
from gradscope.gradients.grams.asking import adds_up
from gradscope.gradients.grams.result import OUTPUT_NOT_REACHED
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
        # What should be zero is rounding of what is not, in the same pass.
        sizes = [float(row.double().norm()) for several in rows.values() for row in several]
        floor = 100 * torch.finfo(values.dtype).eps * sum(sizes)
        for parameter, whole in zip(group, total, strict=True):
            key = id(parameter)
            if key in reached:
                stacked = torch.stack(rows.pop(key))
                right = adds_up(stacked, _or_zeros(whole, parameter), floor)
                found[key] = _gram(stacked) if right else None
    return found


def outputs_one_by_one(
    values: Tensor, outputs: Mapping[str, Sequence[GradientEdge]], own: bool
) -> tuple[dict[str, ScaledGram], dict[str, str]]:
    """Gram of each layer's output gradients, where an axis of the output counts the examples, else the reason.

    An example's row is the gradient of its own value at its own part of the output. The axis is one along which each
    value's gradient is zero everywhere else; where examples mix there is none, and it is the first.

    Args:
        values: One for each example, [B], with their graph.
        outputs: Edges by the layer's name, of outputs that depend on the examples.
        own: Batch statistics mix the examples, so that the first axis is not doubted.
    """
    examples, reasons, found = (
        len(values),
        {},
        {name: [_Axes(len(values), e) for e in outputs[name]] for name in outputs},
    )
    for name in [name for name, parts in found.items() if not all(part.rows for part in parts)]:
        reasons[name] = "no axis of its output counts the examples"
        del found[name]
    flat = [part for parts in found.values() for part in parts]
    for example in range(examples if flat else 0):
        edges = [part.edge for part in flat]
        gradients = torch.autograd.grad(values[example], edges, retain_graph=True, allow_unused=True)
        for part, gradient in zip(flat, gradients, strict=True):
            part.add(gradient, example, values)
    grams: dict[str, ScaledGram] = {}
    for name, parts in found.items():
        axes = [part.axis(own) for part in parts]
        if not any(part.reached for part in parts):
            reasons[name] = OUTPUT_NOT_REACHED
        elif None in axes:
            reasons[name] = (
                "gradients of single examples meet at its output, which has several axes of their number"
            )
        else:
            stacked = [
                torch.stack(part.rows[axis])
                for part, axis in zip(parts, axes, strict=True)
                if axis is not None
            ]
            grams[name] = _gram(torch.cat(stacked, dim=1))
    return grams, reasons


class _Axes:
    """Gradients at one output along every axis that may count the examples."""

    def __init__(self, examples: int, edge: GradientEdge) -> None:
        self.edge, self.reached = edge, False
        self.shape = shapes_in(edge.node)[edge.output_nr]
        self.rows: dict[int, list[Tensor]] = {a: [] for a, size in enumerate(self.shape) if size == examples}
        self.alone = dict.fromkeys(self.rows, True)

    def add(self, gradient: Tensor | None, example: int, values: Tensor) -> None:
        self.reached = self.reached or gradient is not None
        whole = values.new_zeros(self.shape) if gradient is None else gradient
        for axis, rows in self.rows.items():
            row = whole.select(axis, example)
            rows.append(row.flatten().clone())
            self.alone[axis] = self.alone[axis] and bool(row.count_nonzero() == whole.count_nonzero())

    def axis(self, own: bool) -> int | None:
        for axis, alone in self.alone.items():
            if alone:
                return axis
        return 0 if 0 in self.rows and (own or len(self.rows) == 1) else None


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
