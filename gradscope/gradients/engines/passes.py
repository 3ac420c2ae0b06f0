"""The plain engine: hooks on the gated edges, and one ordinary backward pass for each coefficient."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gradscope.gradients.engines.graph import LiveGraph
from gradscope.instruments.gates.delay import DelayLine, delays
from gradscope.instruments.gates.polynomial import Gate, Powers
from gradscope.instruments.junctions import Edge


def passes(
    graph: LiveGraph, gates: Mapping[Edge, Gate], powers: Powers, members: int = 1, lifted: bool = False
) -> list[Tensor]:
    """Coefficients of the gated gradient at each target, [members, *powers.shape, *shape], float64.

    Works with every operation that autograd can differentiate, since each pass is an ordinary one. Costs one
    backward pass a coefficient and member, and one stored cotangent a gated edge (with several variables, as many
    as there are coefficients of the later ones).

    Args:
        graph: The forward pass.
        gates: By edge.
        powers: The coefficients wanted.
        members: Runs with factors of their own.
        lifted: Multiply each pass by a power of two that keeps what crosses near 1, and divide the result by it:
            nothing underflows however long the paths. For one variable.

    Raises:
        RuntimeError: No gradient met a gate.
    """
    results = graph.empty(members, *powers.shape)
    with delays(gates, powers) as line:
        for member in range(members):
            exponent = 0
            for index in powers.indices():
                step = _exponent(line) if lifted and any(index) else 0
                exponent += step
                line.begin(index, member, math.ldexp(1.0, step))
                gradients = graph.backward(0.0 if any(index) else 1.0)
                for result, gradient in zip(results, gradients, strict=True):
                    if gradient is not None:
                        lowered = torch.ldexp(gradient.double(), torch.tensor(-exponent))
                        result[(member, *index)] = lowered if exponent else gradient
    if gates and not line.crossed:
        raise RuntimeError("No gradient met a gate, so the split would be wrong. Please report this model.")
    return results


def _exponent(line: DelayLine) -> int:
    """The power of two that brings the largest of what was kept near 1."""
    largest = line.largest()
    return 0 if largest == 0 or not math.isfinite(largest) else -math.frexp(largest)[1]
