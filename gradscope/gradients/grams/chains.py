"""How an operand is made from parameters alone: as a view of one, as a piece of one, or by a computation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from gradscope.gradients.engines.nodes import shapes_in
from gradscope.instruments.junctions.graph import Node

_SAME_ORDER = (
    "ViewBackward0",
    "UnsafeViewBackward0",
    "ReshapeAliasBackward0",
    "UnsqueezeBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "AliasBackward0",
    "CloneBackward0",
    "ToCopyBackward0",
)


@dataclass(frozen=True, eq=False)
class Chain:
    """What lies between a consuming node and parameters.

    Attributes:
        edge: The operand.
        shape: Of the operand.
        parameters: From which it is made.
        places: Where each number of the operand lies in the one, flattened parameter, [*shape]; None where the
            operand is the whole parameter in its own order, or is computed.
        computed: It is not simply one parameter or a piece of it.
        turned: It is the transpose of the whole parameter, a matrix.
    """

    edge: GradientEdge
    shape: torch.Size
    parameters: tuple[nn.Parameter, ...]
    places: Tensor | None = None
    computed: bool = False
    turned: bool = False

    def order(self) -> tuple[Tensor | None, bool]:
        """Places in the order of the parameter (None: all, in its own), and whether a matrix was turned for it."""
        if self.places is None:
            return None, self.turned
        places = self.places[0] if self.places.ndim == 3 and len(self.places) == 1 else self.places
        turned = places.ndim == 2 and _is_turned(places, self.parameters[0])
        places = (places.T if turned else places).flatten()
        whole = len(places) == self.parameters[0].numel()
        in_order = whole and bool((places == torch.arange(len(places), device=places.device)).all())
        return (None if in_order else places), turned

    def in_parameter(self, rows: Tensor) -> Tensor:
        """Gradients at the operand, [B, numel], as those at the parameter, [B, its numel]."""
        if self.turned:
            return rows.view(len(rows), *self.shape).transpose(1, 2).flatten(1)
        if self.places is None:
            return rows
        whole = rows.new_zeros(len(rows), self.parameters[0].numel())
        return whole.index_add_(1, self.places.flatten(), rows)

    def pulled_back(self, gradient: Tensor) -> list[Tensor]:
        """The gradients at the parameters for one at the operand."""
        found = torch.autograd.grad(
            [self.edge], list(self.parameters), [gradient], retain_graph=True, allow_unused=True
        )
        pairs = zip(found, self.parameters, strict=True)
        return [torch.zeros_like(parameter) if part is None else part for part, parameter in pairs]


def chain(node: Node, number: int) -> Chain | None:
    """The chain that makes one result of a node that holds no examples; None if no parameter feeds it."""
    shape, edge = shapes_in(node)[number], GradientEdge(node, number)
    variable = getattr(node, "variable", None)
    if isinstance(variable, nn.Parameter):
        return Chain(edge, shape, (variable,))
    if node.name() == "TBackward0":
        variable = getattr(node.next_functions[0][0], "variable", None)
        if isinstance(variable, nn.Parameter) and variable.ndim == 2:
            return Chain(edge, shape, (variable,), turned=True)
    parameters = _parameters(node)
    if not parameters:
        return None
    if len(parameters) > 1 or node._input_metadata[number].dtype.is_complex:
        return Chain(edge, shape, parameters, computed=True)
    current = node
    while current.name() in _SAME_ORDER:
        current = current.next_functions[0][0]
    if hasattr(current, "variable"):
        return Chain(edge, shape, parameters)
    own = Chain(edge, shape, parameters, computed=True)
    places = _places(own)
    if places is None:
        return own
    ordered = torch.arange(parameters[0].numel(), device=places.device)
    if places.numel() == len(ordered) and bool((places.flatten() == ordered).all()):
        return Chain(edge, shape, parameters)
    return Chain(edge, shape, parameters, places)


def _places(own: Chain) -> Tensor | None:
    """Where each number of the operand lies, if every one lies somewhere: told by pulling random numbers back."""
    node = own.edge.node
    metadata = node._input_metadata[own.edge.output_nr]
    size = math.prod(own.shape)
    if size > 2**23 and metadata.dtype is not torch.float64:
        return None
    # Whole numbers below 2^24, so that float32 keeps them all apart.
    numbers = torch.randperm(size, generator=torch.Generator().manual_seed(0)) + size // 2 + 1
    numbers = numbers.to(metadata.device)
    back = own.pulled_back(numbers.to(metadata.dtype).view(own.shape))[0].flatten()
    found = back.nonzero().flatten()
    if len(found) != size:
        return None
    values, order = back[found].double().sort()
    if not bool((values == numbers.double().sort().values).all()):
        return None
    places = torch.empty(size, dtype=torch.long, device=back.device)
    places[numbers.argsort()] = found[order]
    return places.view(own.shape)


def _is_turned(places: Tensor, parameter: nn.Parameter) -> bool:
    if 1 in places.shape:
        return tuple(places.shape) != tuple(parameter.shape) and tuple(places.T.shape) == tuple(
            parameter.shape
        )
    return bool(places[0, 1] > places[1, 0])


def _parameters(node: Node) -> tuple[nn.Parameter, ...]:
    found: dict[int, nn.Parameter] = {}
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        variable = getattr(current, "variable", None)
        if isinstance(variable, nn.Parameter):
            found[id(variable)] = variable
        for operand, _ in current.next_functions:
            if operand is not None and operand not in seen:
                seen.add(operand)
                stack.append(operand)
    return tuple(found.values())
