"""What an infinitely wide network of the same architecture and random weights would give, where that is known.

Units are sampled: a linear layer makes of its input's kernel a Gaussian process over the batch, of which a few thousand
units are drawn; whatever works on single units (activations, normalisation by the batch, factors, sums) works on these.
Back through a linear layer the units' gradients are drawn likewise from their covariance. What is left out is that
forward and backward passes use the same weights, which matters for inputs of a few numbers only.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.instruments.junctions.graph import Graph, Node, gradient_node
from gradscope.instruments.junctions.source import source_of
from gradscope.instruments.listen import on_output
from gradscope.instruments.sites import Site
from gradscope.nets.layers import Centre
from gradscope.problem import Problem

Units = NDArray[np.float64]
LAW = "infinite width and random weights of the same variance, on this batch: mean-field theory with 2048 sampled units"
UNITS = 2048
"""A network of that width scatters by some thousandths in R."""
FEWEST_FEATURES = 16
"""Below, the same weights' use in both passes shows: the correction is of the order of one over their number."""
_SAME = ("CloneBackward0", "ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0", "AliasBackward0")
_LINEAR = ("AddmmBackward0", "MmBackward0")
_ACTIVATIONS: dict[str, tuple[Callable[[Units], Units], Callable[[Units], Units]]] = {
    "ReluBackward0": (lambda h: np.maximum(h, 0), lambda h: (h > 0).astype(float)),
    "TanhBackward0": (np.tanh, lambda h: 1 - np.tanh(h) ** 2),
}


class NoLaw(Exception):
    """No law is known for the network; the message says what is in its way."""


def expected_correlation(problem: Problem) -> dict[str, float]:
    """R of Definition 1 at `input` and at the output of each linear layer, by site.

    NaN where the gradient is zero.

    Args:
        problem: Networks of vectors, [N, D], made of linear layers, each used once, of mean zero; ReLU and tanh; batch
            normalisation with frozen statistics and fresh scales; `Centre`; factors; and sums.

    Raises:
        NoLaw: The architecture is none of those known, weights or biases are not centred at zero as random ones are, or
            the input has fewer than 16 numbers.
    """
    # Inside `prepared` the network is in eval mode, in which `auto` would have another name.
    normalised = problem.batch_norm_name
    with problem.prepared():
        inputs, _ = problem.first_batch()
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise NoLaw("its input is not one floating-point tensor")
        rows = inputs.detach().reshape(len(inputs), -1).double().cpu().numpy()
        if rows.shape[1] < FEWEST_FEATURES:
            raise NoLaw(f"its input has {rows.shape[1]} numbers, which is far from infinitely many")
        if not np.isfinite(rows).all():
            raise NoLaw("its input is not finite")
        found = _Steps(problem, inputs, normalised)
    forward = found.forward(rows)
    gradients = found.backward(forward)
    return {site: _ratio(gradients[node]) for site, node in found.sites.items()}


class _Steps:
    """The nodes of one forward pass, and what each does to sampled units, [N, units]."""

    def __init__(self, problem: Problem, inputs: Tensor, normalised: str) -> None:
        self.problem, self.normalised = problem, normalised
        self.examples = len(inputs)
        self.random = np.random.default_rng(0)
        made, output, source = self._run(inputs)
        graph = Graph([output], [source])
        self.order, self.root = graph.order, gradient_node(output)
        self.live = {
            node: [operand for operand, _ in node.next_functions if operand in graph.position]
            for node in self.order
        }
        self._refuse_unknown({node for node, module in made.items() if isinstance(module[1], Centre)})
        linear = {node: name for node, (name, module) in made.items() if type(module) is nn.Linear}
        self.sites = {"input": source} | {name: node for node, name in linear.items() if node in self.live}

    def _run(self, inputs: Tensor) -> tuple[dict[Node, tuple[str, nn.Module]], Tensor, Node]:
        """One pass: the node at which each module's output was made, the output, and the source's node."""
        made: dict[Node, tuple[str, nn.Module]] = {}
        modules = dict(self.problem.model.named_modules())

        def listen(where: Any, tensor: Tensor) -> None:
            if tensor.grad_fn is not None:
                made.setdefault(tensor.grad_fn, (where.site, modules[where.site]))

        with (
            torch.enable_grad(),
            source_of(self.problem.model, inputs) as (placed, sources),
            on_output([Site(name, module) for name, module in modules.items() if name], listen),
        ):
            output = self.problem.outputs(placed)
            found = sources()
        source = gradient_node(found[0]) if found else None
        if source is None or not output.requires_grad:
            raise NoLaw("its output does not depend on its input in a way autograd can see")
        return made, output, source

    def forward(self, rows: Units) -> dict[Node, Units]:
        """Values of sampled units at every node's result; at the source, of the inputs' own coordinates."""
        values = {self.order[0]: rows[:, np.arange(UNITS) % rows.shape[1]]}
        for node in self.order[1:]:
            operands = [values[operand] for operand in self.live[node]]
            values[node] = self._forward(node, operands, rows)
        return values

    def _forward(self, node: Node, operands: list[Units], rows: Units) -> Units:
        name, units = node.name(), operands[0]
        if name in _LINEAR:
            fan_in, _, variance = self._weight(node)
            # A batch at hand is taken whole: its numbers need not be as many as units are drawn.
            given = rows if self._is_source(self.live[node][0]) else units
            kernel = fan_in * variance * (given @ given.T) / given.shape[1]
            return self._drawn(kernel + self._bias_variance(node))
        if name in _ACTIVATIONS:
            return _ACTIVATIONS[name][0](units)
        if name == "SubBackward0":
            return units - units.mean(axis=0)
        if name == "NativeBatchNormBackward0":
            return (units - units.mean(axis=0)) / _deviation(units)
        if name == "AddBackward0":
            return np.sum(operands, axis=0)
        return units * self._factor(node)

    def backward(self, values: dict[Node, Units]) -> dict[Node, Units]:
        """Gradients of sampled units at every node's result, the outputs' being all alike."""
        gradients = {node: np.zeros((self.examples, UNITS)) for node in self.order}
        gradients[self.order[-1]] += 1.0
        for node in reversed(self.order[1:]):
            for operand in self.live[node]:
                gradients[operand] += self._backward(node, gradients[node], values[operand])
        return gradients

    def _backward(self, node: Node, gradient: Units, operand: Units) -> Units:
        name = node.name()
        if name in _LINEAR:
            _, fan_out, variance = self._weight(node)
            return self._drawn(fan_out * variance * (gradient @ gradient.T) / UNITS)
        if name in _ACTIVATIONS:
            return gradient * _ACTIVATIONS[name][1](operand)
        if name == "NativeBatchNormBackward0":
            return gradient / _deviation(operand)
        return gradient * self._factor(node)

    def _drawn(self, covariance: Units) -> Units:
        """Units of a centred Gaussian process over the batch."""
        eigenvalues, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(eigenvalues, 0))
        return np.asarray(root @ self.random.standard_normal((len(covariance), UNITS)))

    def _is_source(self, node: Node) -> bool:
        while node.name() in _SAME:
            node = self.live[node][0]
        return node is self.order[0]

    def _weight(self, node: Node) -> tuple[int, int, float]:
        """Numbers that feed one unit, units that one number feeds, and the weights' variance."""
        parameter, transposed = _parameter(node)
        out, into = parameter.shape if transposed else parameter.shape[::-1]
        return into, out, float(parameter.detach().double().square().mean())

    def _bias_variance(self, node: Node) -> float:
        bias = None if node.name() == "MmBackward0" else node.next_functions[0][0]
        return 0.0 if bias is None else float(bias.variable.detach().double().square().mean())

    def _factor(self, node: Node) -> float:
        return float(self._other(node).detach()) if node.name() == "MulBackward0" else 1.0

    def _other(self, product: Node) -> Tensor:
        """What the operand of a product that hangs on the input is multiplied by."""
        first, _ = product.next_functions[0]
        other: Tensor = product._saved_other if first is self.live[product][0] else product._saved_self
        return other

    def _refuse_unknown(self, centred: set[Node]) -> None:
        used: set[int] = set()
        if self.order[-1] is not self.root:
            raise NoLaw("its output is not made in one place")
        for node in self.order[1:]:
            name, shape = node.name(), tuple(node._input_metadata[0].shape)
            known = (*_SAME, *_LINEAR, *_ACTIVATIONS, "AddBackward0", "MulBackward0", "SubBackward0")
            if name not in (*known, "NativeBatchNormBackward0"):
                raise NoLaw(f"no law is known here for {name.removesuffix('0').removesuffix('Backward')}")
            if not (self._is_source(node) and name in _SAME) and (
                len(shape) != 2 or shape[0] != self.examples
            ):
                raise NoLaw(f"{name} makes {list(shape)}, which is no vector for each example")
            if name in _SAME and not self._is_source(node):
                operand = self.live[node][0]
                if tuple(operand._input_metadata[0].shape) != shape:
                    raise NoLaw("numbers of an example are rearranged")
            if len(self.live[node]) != 1 and name != "AddBackward0":
                raise NoLaw(f"{name} has {len(self.live[node])} operands that hang on the input")
            if name == "SubBackward0" and node not in centred:
                raise NoLaw("a difference is taken that is no centring")
            if name == "AddBackward0" and (len(self.live[node]) != 2 or node._saved_alpha != 1):
                raise NoLaw("a sum with a constant, a parameter or a factor of its own")
            if name == "MulBackward0" and self._other(node).numel() != 1:
                raise NoLaw("a product with something else than a number")
            if name == "NativeBatchNormBackward0" and not self._normalises_by_the_batch():
                raise NoLaw(
                    "batch normalisation with stored statistics, trained scales, or differentiated through"
                )
            if name in _LINEAR:
                self._refuse_layer(node, used)

    def _refuse_layer(self, node: Node, used: set[int]) -> None:
        parameters = [_parameter(node)[0]]
        if node.name() == "AddmmBackward0":
            if node._saved_alpha != 1 or node._saved_beta != 1:
                raise NoLaw("a product with a factor of its own is added to something")
            bias = getattr(node.next_functions[0][0], "variable", None)
            if bias is None or bias.ndim != 1:
                raise NoLaw("a bias is frozen or computed")
            parameters.append(bias)
        for parameter in parameters:
            if id(parameter) in used:
                raise NoLaw("a layer is used several times, or shares its weights")
            used.add(id(parameter))
            numbers = parameter.detach().double()
            # Four standard errors.
            if not bool(numbers.mean().abs() <= 4 * numbers.square().mean().sqrt() / numbers.numel() ** 0.5):
                raise NoLaw("weights or biases are not centred at zero")

    def _normalises_by_the_batch(self) -> bool:
        layers = [m for m in self.problem.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        fresh = all(
            layer.weight is None or bool((layer.weight == 1).all() and (layer.bias == 0).all())
            for layer in layers
        )
        return fresh and self.normalised == "frozen"


def _parameter(node: Node) -> tuple[Tensor, bool]:
    """The weight of a product, and whether it is transposed, as in a linear layer."""
    operand = node.next_functions[2 if node.name() == "AddmmBackward0" else 1][0]
    transposed = operand is not None and operand.name() == "TBackward0"
    operand = operand.next_functions[0][0] if transposed and operand is not None else operand
    weight = getattr(operand, "variable", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise NoLaw("a weight is frozen, or computed from others")
    return weight, transposed


def _deviation(units: Units) -> Units:
    variance = units.var(axis=0)
    # What torch adds to the variance.
    return np.asarray(np.sqrt(variance + 1e-5))


def _ratio(gradients: Units) -> float:
    gram = gradients @ gradients.T
    diagonal, size = np.trace(gram), len(gram)
    return float((gram.sum() - diagonal) / (size - 1) / diagonal) if diagonal > 0 else float("nan")
