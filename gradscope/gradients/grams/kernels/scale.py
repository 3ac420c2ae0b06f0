"""Gradients so small or large that float32 products of them would vanish or overflow: scaled by powers of two."""

from collections.abc import Callable

import torch
from torch import Tensor

# A factor of 2^127 would already overflow in float32.
LARGEST_EXPONENT = 126
# Entries so near 1 are left as they are.
NEAR = 20


def kept_in_range(gram_of: Callable[[Tensor], Tensor], gradients: Tensor) -> Tensor:
    """`gram_of(gradients)` with every example scaled to near 1 on the way in, and back on the way out.

    Powers of two change no digit, so where nothing would have been lost nothing changes. It costs a look at the
    gradients, and a copy if an example is far from 1.

    Args:
        gram_of: From gradients [B, ...] to their Gram [B, B], quadratic in them.
        gradients: One example a row, [B, ...], any scale.

    Returns:
        [B, B], float64. Products beyond float64's own range are 0 or infinite.
    """
    if gradients.dtype == torch.float64:
        return gram_of(gradients)
    exponents = exponents_of(gradients)
    if not exponents.any():
        return gram_of(gradients)
    factors = power_of_two(-exponents, gradients.dtype)
    gram = gram_of(gradients * factors.view(-1, *[1] * (gradients.ndim - 1)))
    return gram * power_of_two(exponents[:, None] + exponents)


def exponents_of(gradients: Tensor) -> Tensor:
    """Of each example's largest entry, [B], int; 0 for an example that is zero, or not finite, or near 1 already."""
    largest = largest_entries(gradients)
    exponents = torch.frexp(largest).exponent.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    return torch.where(largest.isfinite() & (largest > 0) & (exponents.abs() > NEAR), exponents, 0)


def largest_entries(gradients: Tensor) -> Tensor:
    """Largest absolute value of each example's [B, ...], [B], in any layout without a copy."""
    axes = tuple(range(1, gradients.ndim))
    # Twenty times as fast as torch's norm of order infinity.
    return torch.maximum(gradients.amax(dim=axes), -gradients.amin(dim=axes))


def power_of_two(exponents: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.ldexp(torch.ones_like(exponents, dtype=dtype), exponents)
