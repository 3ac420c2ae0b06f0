"""How units switch: active and co-active fractions, on which the theory of shattering rests."""

import torch
from torch import Tensor


def active_fraction(active: Tensor) -> Tensor:
    """Share of (example, unit) pairs in which the unit is active.

    Args:
        active: Boolean, one row per example, shape [N, D].

    Returns:
        Scalar in [0, 1], dimensionless, float64.
    """
    return active.double().mean()


def co_active_fraction(active: Tensor) -> Tensor:
    """Share of (pair of different examples, unit) in which the unit is active on both.

    1/4 when units switch independently on half the inputs; it climbs as units become redundant, which
    looking at the active fraction alone hides.

    Args:
        active: Boolean, one row per example, shape [N, D] with N >= 2.

    Returns:
        Scalar in [0, 1], dimensionless, float64.

    Raises:
        ValueError: `active` is not a matrix with at least two rows.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, section 3.
    """
    if active.ndim != 2 or len(active) < 2:
        raise ValueError(
            f"co_active_fraction compares examples: it needs [N, D] with N >= 2, got {list(active.shape)}."
        )
    n = len(active)
    counts = active.to(torch.float64).sum(dim=0)
    return (counts * (counts - 1)).mean() / (n * (n - 1))
