"""How units switch: active and co-active fractions, on which the theory of shattering rests."""

import math
from typing import NamedTuple

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


def dead_fraction(active: Tensor) -> Tensor:
    """Share of units that are active on no example of the batch.

    A unit that is dead here need not be dead on other examples: in deep uncentred rectifier networks many units
    never switch within one batch only because all examples look alike to them.

    Args:
        active: Boolean, one row per example, shape [N, D].

    Returns:
        Scalar in [0, 1], dimensionless, float64; NaN without units.

    Raises:
        ValueError: `active` is not a matrix with at least one row.

    Source:
        Lu et al. (2019), Dying ReLU and Initialization, arXiv:1903.06733.
    """
    return (_counts("dead_fraction", active) == 0).double().mean()


def always_on_fraction(active: Tensor) -> Tensor:
    """Share of units that are active on every example of the batch, and so are linear on it.

    Args:
        active: Boolean, one row per example, shape [N, D].

    Returns:
        Scalar in [0, 1], dimensionless, float64; NaN without units.

    Raises:
        ValueError: `active` is not a matrix with at least one row.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, section 3 and figure 4 (units that are always on or off).
    """
    return (_counts("always_on_fraction", active) == len(active)).double().mean()


def activation_histogram(active: Tensor, bins: int = 10) -> Tensor:
    """Share of units by the fraction of examples they are active on: a peak at each end means constant units.

    Args:
        active: Boolean, one row per example, shape [N, D].
        bins: Intervals of equal width that cover [0, 1]; the last one holds 1, each other one its lower end only.

    Returns:
        [bins], float64, dimensionless, adding up to 1; NaN without units.

    Raises:
        ValueError: `active` is not a matrix with at least one row, or fewer than one bin.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 4, second row.
    """
    if bins < 1:
        raise ValueError(f"activation_histogram needs at least one bin, got bins={bins}.")
    # In whole numbers: an active fraction of exactly 0.3 must not fall below the edge it lies on.
    place = (_counts("activation_histogram", active) * bins // len(active)).clamp(max=bins - 1)
    return torch.bincount(place, minlength=bins).double() / place.numel()


class Switching(NamedTuple):
    """How the units of a layer switch, each a share in [0, 1]; NaN where it is not defined."""

    active: float
    co_active: float
    dead: float
    always_on: float


def switching(counts: Tensor, examples: int) -> Switching:
    """All four fractions from how often each unit is active, so that batches can be added up.

    Args:
        counts: Number of examples each unit is active on, whole numbers in 0 .. `examples`, any shape.
        examples: N, at least 1; with one example there is no pair, and the co-active fraction is NaN.

    Raises:
        ValueError: No example, or a unit that is active more often than there are examples.
    """
    if examples < 1 or (counts.numel() and not 0 <= int(counts.min()) <= int(counts.max()) <= examples):
        raise ValueError(f"switching needs counts in 0 .. N with N >= 1, got N={examples}, counts {counts}.")
    often = counts.double()
    pairs = examples * (examples - 1)
    return Switching(
        float(often.mean() / examples),
        float((often * (often - 1)).mean() / pairs) if pairs else math.nan,
        float((counts == 0).double().mean()),
        float((counts == examples).double().mean()),
    )


def _counts(name: str, active: Tensor) -> Tensor:
    if active.ndim != 2 or len(active) < 1:
        raise ValueError(f"{name} needs one row per example, [N, D] with N >= 1, got {list(active.shape)}.")
    return active.to(torch.int64).sum(dim=0)
