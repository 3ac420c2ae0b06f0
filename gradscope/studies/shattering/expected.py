"""What an infinitely wide network of the same architecture and random weights would give, where that is known.

The kernel of the batch is followed forward along the autograd graph, layer by layer, and the covariance of two
examples' gradients backward. Known are networks of vectors, [N, D], made of linear layers, ReLUs, batch
normalisation with frozen statistics, centring, factors, and sums of which all operands but one end in a linear layer.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.instruments.junctions import Trace
from gradscope.instruments.junctions.graph import Node
from gradscope.nets.layers import Centre
from gradscope.problem import Problem
from gradscope.theory import k0, k1

Matrix = NDArray[np.float64]
LAW = (
    "infinite width, random weights of the same variance, this batch's inputs: arc-cosine kernels followed through "
    "the layers"
)
_SAME = ("CloneBackward0", "ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0", "AliasBackward0")
_LINEAR = ("AddmmBackward0", "MmBackward0")


class NoLaw(Exception):
    """No law is known for the network; the message says what is in its way."""


def expected_correlation(problem: Problem, traced: Trace) -> dict[str, float]:
    """R of Definition 1 at `input` and at the output of each linear layer, by site; call inside `prepared`.

    Raises:
        NoLaw: The architecture is none of those known.
    """
    inputs, _ = problem.first_batch()
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise NoLaw("its input is not one floating-point tensor")
    rows = inputs.detach().reshape(len(inputs), -1).double().cpu().numpy()
    recursion = _Recursion(problem, traced)
    forward = recursion.forward(rows @ rows.T / rows.shape[1])
    backward = recursion.backward(forward)
    return {site: _ratio(backward[node]) for site, node in recursion.sites().items()}


class _Recursion:
    """The steps of one graph: per-unit kernels forward, per-unit covariances of gradients backward."""

    def __init__(self, problem: Problem, traced: Trace) -> None:
        self.problem = problem
        self.order = traced.graph.order
        self.live = {
            node: [
                (slot, operand)
                for slot, (operand, _) in enumerate(node.next_functions)
                if operand in traced.graph.position
            ]
            for node in self.order
        }
        self.names = {id(parameter): name for name, parameter in problem.model.named_parameters()}
        self._refuse_unknown()

    def sites(self) -> dict[str, Node]:
        """Nodes whose results are those of a named linear layer, and the source under `input`."""
        found = {"input": self.order[0]}
        for node in self.order:
            if node.name() in _LINEAR:
                name = self.names.get(id(self._parameter(node)))
                if name is not None:
                    found[name.rpartition(".")[0]] = node
        return found

    def forward(self, kernel: Matrix) -> dict[Node, Matrix]:
        """Mean product of two examples' numbers in one unit, at every node's result."""
        kernels = {self.order[0]: kernel}
        for node in self.order[1:]:
            operands = [kernels[operand] for _, operand in self.live[node]]
            kernels[node] = self._forward_step(node, operands)
        return kernels

    def backward(self, kernels: dict[Node, Matrix]) -> dict[Node, Matrix]:
        """Mean product of two examples' gradients in one unit, at every node's result."""
        size = len(kernels[self.order[0]])
        gradients = {node: np.zeros((size, size)) for node in self.order}
        gradients[self.order[-1]] = np.ones((size, size))
        for node in reversed(self.order[1:]):
            for _, operand in self.live[node]:
                gradients[operand] += self._gain(node, kernels[operand]) * gradients[node]
        return gradients

    def _forward_step(self, node: Node, operands: list[Matrix]) -> Matrix:
        name, kernel = node.name(), operands[0]
        if name in _LINEAR:
            weight = self._weight(node)
            features = weight.shape[1] if self._is_row_major(node) else weight.shape[0]
            return kernel * features * _mean_square(weight) + self._bias(node)
        if name == "ReluBackward0":
            scale = np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
            return scale * k1(_correlation(kernel)) / 2
        if name == "SubBackward0":
            return _centred(kernel)
        if name == "NativeBatchNormBackward0":
            centred = _centred(kernel)
            return centred / np.mean(np.diag(centred))
        if name == "AddBackward0":
            return np.sum(operands, axis=0)
        return kernel * self._factor(node) ** 2

    def _gain(self, node: Node, kernel: Matrix) -> Any:
        """What a gradient's covariance is multiplied by on the way from a node's result to its operand."""
        name = node.name()
        if name in _LINEAR:
            weight = self._weight(node)
            return (weight.shape[0] if self._is_row_major(node) else weight.shape[1]) * _mean_square(weight)
        if name == "ReluBackward0":
            return k0(_correlation(kernel)) / 2
        if name == "NativeBatchNormBackward0":
            return 1 / np.mean(np.diag(_centred(kernel)))
        return self._factor(node) ** 2

    def _factor(self, node: Node) -> float:
        return float(node._saved_other) if node.name() == "MulBackward0" else 1.0

    def _operand(self, node: Node) -> Node:
        """What feeds the weight of a product, transposed or not."""
        slot = 2 if node.name() == "AddmmBackward0" else 1
        operand = node.next_functions[slot][0]
        if operand is None:
            raise NoLaw(f"the weight of {node.name()} is frozen or computed")
        return operand

    def _is_row_major(self, node: Node) -> bool:
        return self._operand(node).name() in ("TBackward0", "TransposeBackward0")

    def _weight(self, node: Node) -> Tensor:
        return self._parameter(node).detach()

    def _parameter(self, node: Node) -> Tensor:
        operand = self._operand(node)
        if self._is_row_major(node):
            operand = operand.next_functions[0][0]
        weight = getattr(operand, "variable", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise NoLaw(f"the weight of {node.name()} is computed from others")
        return weight

    def _bias(self, node: Node) -> float:
        if node.name() == "MmBackward0":
            return 0.0
        bias = getattr(node.next_functions[0][0], "variable", None)
        if bias is None:
            raise NoLaw("a bias is frozen or computed")
        return _mean_square(bias.detach())

    def _refuse_unknown(self) -> None:
        centres = sum(isinstance(module, Centre) for module in self.problem.model.modules())
        known = (
            *_SAME,
            *_LINEAR,
            "ReluBackward0",
            "AddBackward0",
            "MulBackward0",
            "SubBackward0",
            "NativeBatchNormBackward0",
        )
        for node in self.order[1:]:
            name, operands = node.name(), self.live[node]
            if name not in known:
                raise NoLaw(f"no law is known here for {name.removesuffix('0').removesuffix('Backward')}")
            if len(operands) != 1 and name != "AddBackward0":
                raise NoLaw(f"{name} has {len(operands)} operands that hang on the input")
            if name == "SubBackward0" and sum(n.name() == name for n in self.order) != centres:
                raise NoLaw("a difference is taken that is no centring")
            if name == "MulBackward0" and (node._saved_other is None or node._saved_other.numel() != 1):
                raise NoLaw("a product with something else than a number")
            if name == "AddBackward0" and not self._is_independent_sum(operands):
                raise NoLaw("a sum of which two operands do not end in a linear layer")
            if name == "NativeBatchNormBackward0" and not self._normalises_by_the_batch():
                raise NoLaw(
                    "batch normalisation with stored statistics, trained scales, or differentiated through"
                )

    def _is_independent_sum(self, operands: list[tuple[int, Node]]) -> bool:
        def ends_in_linear(node: Node) -> bool:
            while node.name() in (*_SAME, "MulBackward0"):
                node = self.live[node][0][1]
            return node.name() in _LINEAR

        return len(operands) == 2 and sum(ends_in_linear(operand) for _, operand in operands) >= 1

    def _normalises_by_the_batch(self) -> bool:
        layers = [m for m in self.problem.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        fresh = all(
            layer.weight is None or bool((layer.weight == 1).all() and (layer.bias == 0).all())
            for layer in layers
        )
        return fresh and self.problem.batch_norm_name == "frozen"


def _mean_square(tensor: Tensor) -> float:
    return float(tensor.double().square().mean())


def _correlation(kernel: Matrix) -> Matrix:
    norms = np.sqrt(np.diag(kernel))
    if norms.min() <= 0:
        raise NoLaw("an example is zero, where ReLU has no derivative")
    correlation = np.clip(kernel / np.outer(norms, norms), -1, 1)
    np.fill_diagonal(correlation, 1)
    return correlation


def _centred(kernel: Matrix) -> Matrix:
    rows = kernel - kernel.mean(axis=0)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def _ratio(gradients: Matrix) -> float:
    size = len(gradients)
    diagonal = np.trace(gradients)
    return float((gradients.sum() - diagonal) / (size - 1) / diagonal)
