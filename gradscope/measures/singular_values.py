"""What the singular values of a Jacobian say: moments of their squares, condition, distance from isometry."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

ISOMETRY = (0.5, 2.0)


class Moments(NamedTuple):
    """Moments of the squared singular values s^2 of one matrix, over its min(rows, columns) singular values.

    `relative_variance` is var(s^2) / mean(s^2)^2, which for rectifier networks at initialisation is 2 L with Gaussian
    and L with orthogonal weights.
    """

    mean: float
    mean_square: float
    variance: float
    relative_variance: float


def squared_moments(singular_values: Tensor) -> Moments:
    """Moments of s^2: mean (the normalised trace of J J^T), mean of s^4, variance, variance over squared mean.

    Args:
        singular_values: [D] with D >= 1.

    Returns:
        Of the squared and the fourth power of the singular values' unit; the relative variance is dimensionless, NaN
        for a matrix of zeros.

    Raises:
        ValueError: Not a vector, or an empty one.

    Source:
        Pennington et al. (2017), arXiv:1711.04735.
    """
    squares = _values("squared_moments", singular_values).square()
    mean = float(squares.mean())
    # About the mean, for a variance near zero is lost in the difference of the two moments.
    variance = float((squares - mean).square().mean())
    ratio = variance / mean**2 if mean > 0 and mean**2 > 0 else math.nan
    return Moments(mean, float(squares.square().mean()), variance, ratio)


def isometry_share(singular_values: Tensor, within: tuple[float, float] = ISOMETRY) -> float:
    """Share of the singular values within an interval about 1; 1 is dynamical isometry.

    Args:
        singular_values: [D] with D >= 1.
        within: Lowest and highest that count as near 1.

    Raises:
        ValueError: Not a vector, or an empty one.

    Source:
        Pennington et al. (2017), arXiv:1711.04735, for the notion; the interval is a convention.
    """
    values = _values("isometry_share", singular_values)
    return float(((values >= within[0]) & (values <= within[1])).double().mean())


def probed_moments(gram: Tensor, size: int) -> tuple[Moments, Moments]:
    """The same moments estimated from random probes of J J^T, and their standard errors (jackknife over probes).

    With probes v_a of independent entries of mean 0 and variance 1 and r_a = J^T v_a, <r_a, r_a> has the mean
    tr(J J^T), and <r_a, r_b>^2 for a != b the mean tr((J J^T)^2). Products of means are taken over different probes,
    so that mean, mean square and variance are unbiased; the relative variance is a ratio of two such.

    Args:
        gram: Products <r_a, r_b>, [K, K] with K >= 3.
        size: Number of singular values, min(rows, columns) of J.

    Raises:
        ValueError: Fewer than three probes, or a matrix that is not square.

    Source:
        Hutchinson (1989) for the trace; the second moment from pairs of probes is derived.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) < 3:
        raise ValueError(
            f"probed_moments needs a Gram matrix of three probes or more, got {list(gram.shape)}."
        )
    squares = gram.double().square()
    own = gram.diagonal().double()
    probes, total = len(gram), squares.sum()
    every = _estimates(own.sum(), own.square().sum(), total, probes, size)
    # What is left without each probe in turn: its row and its column go, its own product being in both.
    rest = total - 2 * squares.sum(dim=1) + own.square()
    without = _estimates(own.sum() - own, own.square().sum() - own.square(), rest, probes - 1, size)
    spread = (without - without.mean(dim=1, keepdim=True)).square().sum(dim=1) * (probes - 1) / probes
    return Moments(*every.tolist()), Moments(*spread.sqrt().tolist())


def _estimates(own: Tensor, squared_own: Tensor, squares: Tensor, probes: int, size: int) -> Tensor:
    """The four moments from sums over probes: of <r_a, r_a>, of its square, and of all <r_a, r_b>^2."""
    pairs = probes * (probes - 1)
    squared_mean = (own.square() - squared_own) / (pairs * size**2)
    mean_square = (squares - squared_own) / (pairs * size)
    variance = mean_square - squared_mean
    return torch.stack([own / (probes * size), mean_square, variance, variance / squared_mean])


def _values(name: str, singular_values: Tensor) -> Tensor:
    if singular_values.ndim != 1 or len(singular_values) < 1:
        raise ValueError(f"{name} needs a vector of singular values, [D], got {list(singular_values.shape)}.")
    return singular_values.double()
