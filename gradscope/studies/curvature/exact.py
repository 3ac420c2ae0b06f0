"""What is read off all eigenvalues of a matrix that was formed: no estimate, only rounding."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.curvature.units import EIGENVALUE, SQUARE
from gradscope.studies.curvature.rows import reading

if TYPE_CHECKING:
    import pandas as pd


def rounding(spectrum: Tensor, dtype: torch.dtype) -> float:
    """How far eigenvalues may be off, given that the products ran in `dtype`."""
    largest = float(spectrum.abs().max())
    return (10 * torch.finfo(dtype).eps + len(spectrum) * torch.finfo(torch.float64).eps) * largest


def extreme_rows(spectrum: Tensor, k: int, dtype: torch.dtype, products: int) -> "pd.DataFrame":
    """The k outermost of all eigenvalues at both ends, as `extreme_eigenvalues` reports them.

    Args:
        spectrum: All eigenvalues, ascending, [P], float64.
        k: How many at each end, or all there are.
        dtype: Of the products.
        products: What they cost.
    """
    import pandas as pd

    noise, kept = rounding(spectrum, dtype), min(k, len(spectrum))
    ranks = [*range(1, kept + 1), *range(-1, -kept - 1, -1)]
    return pd.DataFrame(
        [
            reading("eigenvalue", value, EIGENVALUE, low=value - noise, high=value + noise)
            | {"rank": rank, "residual": noise, "converged": True, "products": products}
            for rank in ranks
            for value in [float(spectrum[-rank if rank > 0 else -rank - 1])]
        ]
    )


def share_negative(spectrum: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """The share of eigenvalues below zero (the index); `high` counts those that are zero to rounding, too."""
    noise = rounding(spectrum, dtype)
    below = float((spectrum < -noise).double().mean())
    return reading(
        "share_negative",
        below,
        low=below,
        high=float((spectrum <= noise).double().mean()) if noise else below,
    )


def beyond_rows(
    spectrum: Tensor, threshold: float, dtype: torch.dtype, products: int
) -> list[dict[str, Any]]:
    """`negative_share` (below -threshold), `share_above` (beyond it on either side) and the sum of absolute values.

    Args:
        spectrum: All eigenvalues, [P], float64.
        threshold: That of the density, positive; NaN where it has none.
        dtype: Of the products.
        products: What they cost.
    """
    noise, total = rounding(spectrum, dtype), float(spectrum.abs().sum())
    rows = []
    for name, sizes in {"negative_share": -spectrum, "share_above": spectrum.abs()}.items():
        value, low, high = (
            math.nan if math.isnan(threshold) else float((sizes > threshold + shift).double().mean())
            for shift in (0.0, noise, -noise)
        )
        reason = "the density has no resolution to count beyond" if math.isnan(threshold) else ""
        rows.append(reading(name, value, low=low, high=high, reason=reason, threshold=threshold))
    slack = noise * len(spectrum)
    rows.append(reading("absolute_trace", total, EIGENVALUE, low=max(0.0, total - slack), high=total + slack))
    return [row | {"products": products} for row in rows]


def trace_rows(spectrum: Tensor, products: int) -> list[dict[str, Any]]:
    """Trace, trace of the square and participation ratio (tr H)^2 / tr H^2."""
    whole, square = float(spectrum.sum()), float(spectrum.square().sum())
    ratio = whole**2 / square if square else math.nan
    rows = [
        reading("trace", whole, EIGENVALUE, low=whole, high=whole),
        reading("trace_of_square", square, SQUARE, low=square, high=square),
        reading(
            "participation_ratio",
            ratio,
            low=ratio,
            high=ratio,
            reason="" if square else "all eigenvalues are zero",
        ),
    ]
    return [row | {"products": products} for row in rows]
