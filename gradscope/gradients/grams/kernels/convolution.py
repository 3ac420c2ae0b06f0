"""Gram of a convolution's kernel: per-example gradients as small matrix products, dropped as soon as multiplied."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gradscope.gradients.grams.kernels.linear import (
    BLOCK,
    PER_EXAMPLE,
    equal_step,
    linear_weight_gram,
)
from gradscope.gradients.grams.kernels.rows import gram_of_rows
from gradscope.gradients.grams.kernels.scale import kept_in_range

# Numbers of the columns made at once: 2 MB in float32, so that they are multiplied while still in the cache.
COLUMNS = 2**19

Use = tuple[Tensor, Tensor]


class Geometry(NamedTuple):
    """Of one convolution in two dimensions; one in one dimension is one row high."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolution_weight_gram(
    uses: Sequence[Use],
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, str]:
    """Gram of the per-example gradients of the kernel of a convolution in one or two dimensions.

    With channels last in memory, the numbers under one row of the kernel lie side by side. So only the columns of a
    row are gathered, a copy `kernel width` times the input instead of `kernel size` times, and the rows of the
    kernel are as many products of gradients with shifted views of it. Where positions are so few that
    T^2 (k C + O) < k C O, products of positions as in `linear_weight_gram` take their place (one group only).

    Args:
        uses: Inputs [B, C, L] or [B, C, H, W] and gradients at the outputs [B, O, ...] of each call of the layer, whose
            per-example gradients are added up. Any layout; channels last saves a copy. Spatial sizes may differ.
        weight_shape: Of the kernel, (O, C / groups, ...).
        stride: Per spatial dimension, like `padding` and `dilation`.
        padding: Zeros on both sides. Other padding (circular, unequal) is done to the inputs by the caller.
        dilation: Steps between the numbers under the kernel.
        groups: Of channels.

    Returns:
        [B, B], float64, and how: "products" or "per-example gradients".

    Source:
        Rochette et al. (2019), arXiv:1912.06015, for per-example gradients of convolutions; Bu et al. (2022),
        arXiv:2205.10683, for products of positions and the rule.
    """
    one_row = len(weight_shape) == 3

    def pair(sizes: Sequence[int], flat: int) -> tuple[int, int]:
        return (flat, sizes[0]) if one_row else (sizes[0], sizes[1])

    shape = Geometry(pair(weight_shape[2:], 1), pair(stride, 1), pair(padding, 0), pair(dilation, 1), groups)
    calls = [tuple(t.unsqueeze(2) if one_row else t for t in use) for use in uses]
    if calls[0][0].dtype not in (torch.float32, torch.float64):
        calls = [(x.float(), g.float()) for x, g in calls]
    outputs, taps = weight_shape[0], weight_shape[1] * shape.kernel[0] * shape.kernel[1]
    positions = sum(g.shape[2] * g.shape[3] for _, g in calls)
    if groups == 1 and positions**2 * (taps + outputs) < taps * outputs:
        patches = torch.cat(
            [F.unfold(x, shape.kernel, shape.dilation, shape.padding, shape.stride) for x, _ in calls], dim=2
        )
        gradients = torch.cat([g.flatten(start_dim=2) for _, g in calls], dim=2)
        return linear_weight_gram(patches.transpose(1, 2), gradients.transpose(1, 2))

    def summed(joined: Tensor) -> Tensor:
        parts = joined.split([g[0].numel() for _, g in calls], dim=1)
        return _gram([(x, part.view(g.shape)) for (x, g), part in zip(calls, parts, strict=True)], shape)

    if len(calls) == 1:
        inputs, gradients = calls[0]
        gram = kept_in_range(lambda scaled: _gram([(inputs, scaled)], shape), gradients)
    else:
        # One tensor, so that the calls of an example are scaled by one power.
        joined = torch.cat([g.flatten(start_dim=1) for _, g in calls], dim=1)
        gram = kept_in_range(summed, joined)
    return gram, PER_EXAMPLE


def _gram(calls: list[Use], shape: Geometry) -> Tensor:
    """Summed over blocks of output channels, so that never more than `BLOCK` numbers of gradients are held."""
    examples, channels = calls[0][0].shape[:2]
    outputs = calls[0][1].shape[1] // shape.groups
    across = channels // shape.groups * shape.kernel[1]
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=calls[0][0].device)
    per_output = shape.kernel[0] * examples * shape.groups * across
    step = equal_step(outputs, BLOCK // per_output)
    for start in range(0, outputs, step):
        block = slice(start, min(start + step, outputs))
        sizes = sorted((block.stop - start, across))
        # A kernel's row of gradients or its transpose, which the Gram does not tell apart: long rows multiply faster.
        rows = calls[0][0].new_empty(shape.kernel[0], examples, shape.groups, *sizes)
        for call, (inputs, gradients) in enumerate(calls):
            _add_gradients(rows, inputs, gradients, block, shape, kept=min(call, 1))
        for row in rows:
            gram += gram_of_rows(row)
    return gram


def _add_gradients(
    rows: Tensor, inputs: Tensor, gradients: Tensor, block: slice, shape: Geometry, kept: int
) -> None:
    """`rows` times `kept` plus one call's gradients at a block of output channels, a few examples at a time."""
    (height, _), (down, _), (above, beside) = shape.kernel, shape.stride, shape.padding
    high, wide = gradients.shape[2:]
    needed = (high - 1) * down + (height - 1) * shape.dilation[0] + 1
    step = max(1, COLUMNS // (needed * wide * inputs.shape[1] * shape.kernel[1]))
    for start in range(0, len(inputs), step):
        few = slice(start, start + step)
        pixels = inputs[few].permute(0, 2, 3, 1)
        if above or beside:
            pixels = F.pad(pixels, (0, 0, beside, beside, above, above))
        pixels = pixels.contiguous()
        slopes = gradients[few].permute(0, 2, 3, 1).unflatten(3, (shape.groups, -1))[..., block]
        slopes = slopes.permute(0, 3, 1, 2, 4).reshape(len(pixels) * shape.groups, high * wide, -1)
        every = _columns(pixels, 0, needed, 1, wide, shape) if down == 1 else None
        for row, target in enumerate(rows[:, few]):
            first = row * shape.dilation[0]
            if every is None:
                columns = _columns(pixels, first, high, down, wide, shape)
            else:
                columns = every[:, first * wide : (first + high) * wide]
            left, right = (slopes, columns) if slopes.shape[2] <= columns.shape[2] else (columns, slopes)
            target.flatten(0, 1).baddbmm_(left.transpose(1, 2), right, beta=kept)


def _columns(pixels: Tensor, first: int, count: int, step: int, wide: int, shape: Geometry) -> Tensor:
    """What lies under one row of the kernel at each position of `count` rows: [examples x groups, positions, taps]."""
    examples, high, width, channels = pixels.shape
    own, line = channels // shape.groups, width * channels
    right, apart = shape.stride[1] * channels, shape.dilation[1] * channels
    return pixels.as_strided(
        (examples, shape.groups, count, wide, shape.kernel[1], own),
        (high * line, own, step * line, right, apart, 1),
        pixels.storage_offset() + first * line,
    ).reshape(examples * shape.groups, count * wide, -1)
