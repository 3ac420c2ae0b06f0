"""The Gram of rows: all their inner products."""

import torch
from torch import Tensor

from gradscope.gradients.grams.kernels.scale import exponents_of, power_of_two

# Products of this many columns are added up by the float32 product itself, the rest in float64.
COLUMNS = 8192
# From here on block rows of the lower triangle (four of them, 5/8 of the products) beat one call; thinner ones do not.
ROWS_WORTH_BLOCKS, NUMBERS_WORTH_BLOCKS, THINNEST = 48, 2**18, 32
# Squared norms between which float32 products lose nothing to speak of.
SMALLEST_SQUARE, LARGEST_SQUARE = 1e-24, 1e30


def gram_of_rows(rows: Tensor) -> Tensor:
    """Inner products of all pairs of rows, exactly symmetric.

    Args:
        rows: [B, D], or [B, ...] in any layout, whose inner products are those of the flattened examples. Any
            float dtype. float32 (and half, as float32) is multiplied in float32 and added up in float64, at any
            scale of a row; no float64 copy of the rows is made.

    Returns:
        [B, B], float64, the square of the unit of `rows`.
    """
    return gram_and_range(rows)[0]


def gram_and_range(rows: Tensor) -> tuple[Tensor, bool]:
    """`gram_of_rows`, and whether all norms are between 1e-12 and 1e15, which its diagonal tells."""
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.float()
    flat = _flattened(rows)
    gram = _gram(flat)
    if not flat.numel():
        return gram, False
    low, high = gram.diagonal().aminmax()
    in_range = float(low) > SMALLEST_SQUARE and float(high) < LARGEST_SQUARE
    if not in_range and flat.dtype == torch.float32:
        _mend(gram, flat)
    return gram, in_range


def summed_gram(gradients: Tensor) -> Tensor:
    """Gram of what is added alike at every position, a bias for one: gradients are summed over positions first.

    Args:
        gradients: At the layer's output, [B, T, D].

    Returns:
        [B, B], float64.
    """
    return gram_of_rows(gradients.sum(dim=1))


def _flattened(rows: Tensor) -> Tensor:
    """[B, D]. The order of the columns is the one in memory, for it does not matter and another would cost a copy."""
    if rows.ndim == 2:
        return rows
    order = sorted(range(1, rows.ndim), key=rows.stride, reverse=True)
    return rows.permute(0, *order).reshape(len(rows), -1)


def _gram(rows: Tensor) -> Tensor:
    examples, columns = rows.shape
    if columns <= COLUMNS and (examples < ROWS_WORTH_BLOCKS or examples * columns < NUMBERS_WORTH_BLOCKS):
        gram = rows.mm(rows.T)
        # BLAS does not promise the same rounding on both sides of the diagonal.
        return (gram + gram.T).double().mul_(0.5)
    gram = torch.empty(examples, examples, dtype=torch.float64, device=rows.device)
    step = examples if examples < ROWS_WORTH_BLOCKS else max(THINNEST, -(-examples // 4))
    blocks = [(start, min(start + step, examples)) for start in range(0, examples, step)]
    for number, part in enumerate(rows.split(COLUMNS, dim=1)):
        for start, stop in blocks:
            products, place = part[start:stop].mm(part[:stop].T), gram[start:stop, :stop]
            place.copy_(products) if number == 0 else place.add_(products)
    for start, stop in blocks:
        gram[:start, start:stop] = gram[start:stop, :start].T
        corner = gram[start:stop, start:stop]
        corner.copy_((corner + corner.T).mul_(0.5))
    return gram


def _mend(gram: Tensor, rows: Tensor) -> None:
    """Put in again the products of rows far from 1, by powers of two, which change no digit."""
    exponents = exponents_of(rows)
    few = exponents.nonzero()[:, 0]
    if not len(few):
        return
    scaled = rows[few] * power_of_two(-exponents[few], rows.dtype)[:, None]
    if len(few) < len(rows):
        parts = zip(scaled.split(COLUMNS, dim=1), rows.split(COLUMNS, dim=1), strict=True)
        across = sum(part.mm(other.T).double() for part, other in parts)
        across *= power_of_two(exponents[few])[:, None]
        gram[few], gram[:, few] = across, across.T
    gram[few[:, None], few] = _gram(scaled) * power_of_two(exponents[few][:, None] + exponents[few])
