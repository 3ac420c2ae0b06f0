"""Grams of the weight of a linear layer: rank-one gradients never formed, sums over positions formed by blocks."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradscope.gradients.grams.kernels.rows import gram_of_rows
from gradscope.gradients.grams.kernels.scale import kept_in_range

PRODUCTS, PER_EXAMPLE = "products", "per-example gradients"
# Numbers of one block. Per-example gradients are dropped block by block, while they are still in the cache.
BLOCK = 4 * 2**20


def linear_factors(inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward Gram of a layer used once per example, whose product is the Gram of its weight.

    The gradient of example i is g_i x_i^T, so <i, j> = <x_i, x_j> <g_i, g_j>.

    Args:
        inputs: What the layer took in, [B, din].
        gradients: At what it gave out, [B, dout].

    Returns:
        Two of [B, B], float64: of the inputs, and of the gradients.

    Source:
        Goodfellow (2015), arXiv:1510.01799, for the norms.
    """
    return gram_of_rows(inputs), gram_of_rows(gradients)


def linear_weight_gram(inputs: Tensor, gradients: Tensor) -> tuple[Tensor, str]:
    """Gram of the per-example gradients G_i^T X_i of a weight used at T positions.

    Through products of positions, sum_{s,t} <x_is, x_jt> <g_is, g_jt>, where they are fewer:
    T^2 (din + dout) < din dout. Else through the per-example gradients, by blocks of rows of the weight.

    Args:
        inputs: What the layer took in, [B, T, din]. Uses of one weight stand one after the other along T.
        gradients: At what it gave out, [B, T, dout].

    Returns:
        [B, B], float64, and how: "products" or "per-example gradients".

    Source:
        Li et al. (2022), arXiv:2110.05679, for the products ("ghost clipping") and the rule.
    """
    positions, din, dout = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    if positions == 1:
        forward, backward = linear_factors(inputs[:, 0], gradients[:, 0])
        return forward * backward, PRODUCTS
    if inputs.dtype not in (torch.float32, torch.float64):
        inputs, gradients = inputs.float(), gradients.float()
    if positions**2 * (din + dout) < din * dout:
        return _in_range(_of_positions, inputs, gradients), PRODUCTS
    if din < dout:
        # The Gram does not tell a matrix from its transpose; a product with more columns is the faster one.
        return _in_range(lambda x, g: _of_gradients(g, x), inputs, gradients), PER_EXAMPLE
    return _in_range(_of_gradients, inputs, gradients), PER_EXAMPLE


def equal_step(total: int, most: int) -> int:
    """Length of the fewest parts of at most about `most`, all alike but for rounding to 16, which products like."""
    parts = -(-total // max(1, most))
    step = -(-total // parts)
    return min(-(-step // 16) * 16, total) if most >= 16 else step


def _in_range(gram_of: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, gradients: Tensor) -> Tensor:
    return kept_in_range(lambda scaled: gram_of(inputs, scaled), gradients)


def _of_gradients(inputs: Tensor, gradients: Tensor) -> Tensor:
    examples, _, din = inputs.shape
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=inputs.device)
    for part in gradients.split(equal_step(gradients.shape[2], BLOCK // (examples * din)), dim=2):
        gram += gram_of_rows(torch.bmm(part.transpose(1, 2), inputs))
    return gram


def _of_positions(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Block row by block row of the lower triangle, each of at most `BLOCK` products."""
    examples, positions = inputs.shape[:2]
    x, g = inputs.flatten(0, 1), gradients.flatten(0, 1)
    gram = torch.zeros(examples, examples, dtype=torch.float64, device=inputs.device)
    step = min(-(-examples // 4), max(1, BLOCK // (examples * positions**2)))
    for start in range(0, examples, step):
        stop = min(start + step, examples)
        here, before = slice(start * positions, stop * positions), slice(stop * positions)
        products = x[here].mm(x[before].T).mul_(g[here].mm(g[before].T))
        sums = products.view(stop - start, positions, stop, positions).sum(dim=(1, 3), dtype=torch.float64)
        gram[start:stop, :stop] = sums
        gram[:start, start:stop] = sums[:, :start].T
        corner = sums[:, start:]
        gram[start:stop, start:stop] = (corner + corner.T).mul_(0.5)
    return gram
