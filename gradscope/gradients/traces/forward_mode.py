"""The derivative of many fully connected networks along a line of inputs, at all their depths, in one pass each.

Values and derivatives at all points are the two halves of one matrix, which goes through a layer by one product: no
graph is kept, and a readout after each block makes one network of L blocks give the traces of all its L depths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Linear(NamedTuple):
    """x -> W x + b, `weight` [out, in], `bias` [out] or None."""

    weight: Tensor
    bias: Tensor | None = None


class Normalise(NamedTuple):
    """A unit's value less a mean, over a deviation, then scaled and shifted; mean and deviation are constants.

    Attributes:
        variance: Whether to divide by sqrt(variance + epsilon).
        epsilon: Added to the variance.
        statistics: Mean and variance, each [units]; None for those of the points of the line.
        weight: Scale, [units] or None.
        bias: Shift, [units] or None.
    """

    variance: bool = False
    epsilon: float = 0.0
    statistics: tuple[Tensor, Tensor] | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


class Rectifier(NamedTuple):
    """relu(x), with derivative 0 at 0; `both` for (relu(x), relu(-x)) side by side."""

    both: bool = False


Step = Linear | Normalise | Rectifier


class Block(NamedTuple):
    """Steps one after the other; with `skip`, alpha (x + beta F(x)) of them, otherwise alpha beta F(x)."""

    steps: tuple[Step, ...]
    skip: bool = False
    alpha: float = 1.0
    beta: float = 1.0


@torch.no_grad()
def depth_derivatives(
    blocks: Sequence[Block], readouts: Sequence[Tensor | None], points: Tensor, tangents: Tensor
) -> Tensor:
    """Derivative along a line, at each of its points, of a linear readout after each block.

    Args:
        blocks: The network, in the order of its forward pass.
        readouts: As many as blocks: the weights of the readout after that block, [features], or None where none is
            wanted. Its bias has no derivative. Several outputs are summed (Definition 1) by summing their weights.
        points: [M, D], all of one dtype and device with the weights.
        tangents: Direction of the line at each point, [M, D].

    Returns:
        [readouts that are not None, M], output per unit of length of the tangents.

    Raises:
        ValueError: Points and tangents that are no matrices of one shape, or another number of readouts.
    """
    if points.ndim != 2 or points.shape != tangents.shape:
        raise ValueError(
            f"points and tangents are [M, D] alike, got {list(points.shape)} and {list(tangents.shape)}."
        )
    if len(readouts) != len(blocks):
        raise ValueError(f"There are {len(blocks)} blocks but {len(readouts)} readouts; pass None for none.")
    count = len(points)
    state = torch.cat([points, tangents])
    mean_row = state.new_full((1, count), 1 / count)
    wanted = sum(readout is not None for readout in readouts)
    traces, row = state.new_empty(wanted, count), 0
    for block, readout in zip(blocks, readouts, strict=True):
        state = _through(block, state, mean_row)
        if readout is not None:
            torch.mv(state[count:], readout, out=traces[row])
            row += 1
    return traces


def _through(block: Block, state: Tensor, mean_row: Tensor) -> Tensor:
    held, entered = state, True
    for step in block.steps:
        if isinstance(step, Linear):
            state = _linear(step, state)
        else:
            # The state that came in is still needed where it is added at the end.
            state = state.clone() if entered and block.skip else state
            if isinstance(step, Normalise):
                _normalise(step, state, mean_row)
            else:
                state = _rectified(step, state)
        entered = False
    factor = block.alpha * block.beta
    if not block.skip:
        return state if factor == 1 else state * factor
    if entered:
        return held * (block.alpha + factor)
    if block.alpha != 1:
        held = held * block.alpha
    return state.mul_(factor).add_(held) if factor != 1 else state.add_(held)


def _linear(step: Linear, state: Tensor) -> Tensor:
    product = state @ step.weight.T
    if step.bias is not None:
        product[: len(product) // 2] += step.bias
    return product


def _normalise(step: Normalise, state: Tensor, mean_row: Tensor) -> None:
    """In place. Means are products with a row: torch's reductions over the first dimension cost tens of them."""
    values = state[: len(state) // 2]
    mean = mean_row @ values if step.statistics is None else step.statistics[0]
    values -= mean
    if step.variance:
        if step.statistics is None:
            variance = mean_row @ values.square()
        else:
            variance = step.statistics[1]
        state *= torch.rsqrt(variance + step.epsilon)
    if step.weight is not None:
        state *= step.weight
    if step.bias is not None:
        values += step.bias


def _rectified(step: Rectifier, state: Tensor) -> Tensor:
    if step.both:
        state = torch.cat([state, -state], dim=1)
    values, derivatives = state.tensor_split(2)
    # The backward pass of ReLU at once: a boolean mask and a product would take several times as long.
    torch.ops.aten.threshold_backward.grad_input(derivatives, values, 0, grad_input=derivatives)
    values.relu_()
    return state
