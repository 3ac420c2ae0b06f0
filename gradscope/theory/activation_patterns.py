"""Which units of a layer are on for which inputs of a batch, and for how long along a line of inputs?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import correlation, real_number, whole_number
from gradscope.theory.arc_cosine import coactivation
from gradscope.theory.mean_field import plain_correlation

_FARTHEST = 12.0


def plain_coactivation(depth: int, rho: float = 0.0) -> NDArray[np.float64]:
    """Co-active share (pi - acos rho_l) / (2 pi) of units of a plain uncentred ReLU net, at layers 1..L.

    Rises from the theorems' 1/4 (orthogonal inputs) to the active share, 1/2: responses become redundant,
    though half of all are on at every layer. Centring or batch normalisation keeps 1/4.

    Args:
        depth: Number L of ReLU layers, >= 1.
        rho: Correlation of the first pre-activations of two inputs, in [-1, 1].

    Returns:
        Fractions in [0, 1/2], shape [L].

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived; quantity: Balduzzi et al. (2017), arXiv:1702.08591, section 3.
    """
    return coactivation(plain_correlation(depth, rho).input_correlation)


def always_off_fraction(rho: ArrayLike, examples: int) -> NDArray[np.float64]:
    """Share E_z[Phi(-z sqrt(r / (1 - r)))^B] of ReLU units that are off on all B examples.

    Pre-activations are Gaussian with mean 0 and correlation r between any two examples: a common part and one of its
    own for each. 2^-B at r = 0, 1 / (B + 1) at r = 1/2, 1/2 at r = 1. As many are always on, so that twice this
    are constant over the batch, without being dead: training can move them.

    Args:
        rho: r in [0, 1], any shape. Of a plain uncentred net: `plain_correlation(...).input_correlation`.
        examples: B >= 1.

    Returns:
        Fractions in [2^-B, 1/2], shape of `rho`, to a relative 1e-8 (1e-6 where 1 - r is below 1e-6).

    Raises:
        ValueError: r is outside [0, 1] (B inputs cannot all be correlated below -1 / (B - 1)), or B below 1.

    Source:
        Derived.
    """
    from scipy.special import log_ndtr

    batch = whole_number(examples, "examples", 1)
    correlations = np.asarray(rho, dtype=np.float64)
    shares = []
    for value in correlations.flat:
        r = correlation(value, "rho")
        if r < 0:
            raise ValueError(f"rho is shared by all pairs, and must be in [0, 1], got {r}.")
        if r == 1:
            shares.append(0.5)
            continue
        steepness = math.sqrt(r / (1 - r))
        points = int(4000 * max(1.0, min(steepness, 1e3))) | 1
        z = np.linspace(-_FARTHEST, _FARTHEST, points)
        density = np.exp(-np.square(z) / 2)
        shares.append(float(density @ np.exp(batch * log_ndtr(-z * steepness)) / density.sum()))
    return np.reshape(np.array(shares, dtype=np.float64), correlations.shape)


def expected_run_length(points: int, rho: ArrayLike = 0.0) -> float:
    """Contiguity: expected length of runs of constant on or off along a row of M inputs, all runs pooled.

    M / (1 + sum of the chances acos(r) / pi of a change): 2 M / (M + 1) for independent coin flips (r = 0), a
    little below 2 because the ends cut runs short; M where all inputs are alike.

    Args:
        points: M >= 1.
        rho: Correlation of the pre-activations of neighbouring inputs, in [-1, 1]: one number, or shape [M - 1].

    Returns:
        In inputs, in [1, M]. The ratio of expectations: rows times M over the number of runs in all rows.

    Raises:
        ValueError: an argument is outside its range, or there are not M - 1 correlations.

    Source:
        Derived; quantity: Balduzzi et al. (2017), arXiv:1702.08591, Figure 4.
    """
    M = whole_number(points, "points", 1)
    neighbours = np.asarray(rho, dtype=np.float64)
    if neighbours.shape not in ((), (M - 1,)):
        raise ValueError(
            f"rho is one number or one for each of {M - 1} neighbours, got {list(neighbours.shape)}."
        )
    if not (np.abs(neighbours) <= 1).all():
        raise ValueError(f"rho holds correlations, in [-1, 1], got {rho!r}.")
    changes = np.broadcast_to(np.arccos(neighbours) / np.pi, (M - 1,)).sum()
    return M / (1 + float(changes))


def biased_run_length(points: int, active: float) -> float:
    """The same for independent flips of a coin that shows on with chance p: M / (1 + 2 p (1 - p) (M - 1)).

    What a measured contiguity tends to when neighbouring inputs have nothing in common but how often a unit is on.

    Args:
        points: M >= 1.
        active: p in [0, 1].

    Returns:
        In inputs, in [1, M].

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived.
    """
    M, p = whole_number(points, "points", 1), real_number(active, "active", least=0)
    if p > 1:
        raise ValueError(f"active is a chance, in [0, 1], got {p}.")
    return M / (1 + 2 * p * (1 - p) * (M - 1))
