"""How alike the gradients of different examples are: the statistics that show shattering."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A value with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


def mean_cosine(gradients: Tensor) -> Tensor:
    """Mean cosine between the gradients of two different examples.

    1 when all examples pull the same way; near 0 when gradients are as unrelated as white noise, which
    is what "shattered" means.

    The N x N matrix of cosines is never formed: with unit rows u_i,
    sum_{i != j} <u_i, u_j> = |sum_i u_i|^2 - N.

    Args:
        gradients: One row per example, shape [N, D] with N >= 2, any float dtype. The scale of a row
            does not matter, however small: rows are divided by their own largest entry, not by a norm
            plus an epsilon, because an epsilon would report vanishing gradients as shattered ones.

    Returns:
        Scalar, dimensionless, in [-1/(N-1), 1]; float64, on the device of `gradients`. NaN if some row
        is exactly zero, for such a row has no direction.

    Raises:
        ValueError: `gradients` is not a matrix with at least two rows.

    Source:
        Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591.
    """
    n = _rows("mean_cosine", gradients)
    rows = gradients.double()
    rows = rows / rows.abs().amax(dim=1, keepdim=True)
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return (rows.sum(dim=0).square().sum() - n) / (n * (n - 1))


def correlation_R(gradients: Tensor) -> Tensor:
    """Gradient correlation R: mean product of two examples' gradients over their mean square.

    The ratio of expectations of Definition 1, with the D coordinates of a layer in the role of the
    neurons: R = mean_{i != j} <g_i, g_j> / mean_i <g_i, g_i>. Unlike `mean_cosine`, examples with long
    gradients weigh more. Uncentred: no mean over examples is taken off.

    Args:
        gradients: One row per example, shape [N, D] with N >= 2, any float dtype and scale.

    Returns:
        Scalar, dimensionless, in [-1/(N-1), 1]; float64. NaN if every gradient is zero.

    Raises:
        ValueError: `gradients` is not a matrix with at least two rows.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Definition 1.
    """
    n = _rows("correlation_R", gradients)
    rows = gradients.double()
    rows = rows / rows.abs().amax()
    squares = rows.square().sum()
    return (rows.sum(dim=0).square().sum() - squares) / (squares * (n - 1))


def correlation_R_interval(gradients: Tensor) -> Estimate:
    """`correlation_R` with a jackknife 95 % interval over examples.

    Leaving out example i changes the sum of all products by what row i of the Gram matrix holds, so the
    N leave-one-out values cost one product with the summed gradient, not N recomputations.

    The interval is too narrow where the gradients' lengths differ much, for then a few long ones decide R. Lengths
    that are equal: it held the truth 97 to 99 times in 100; log-normal ones of sigma 1: 81 with 6 examples, 66 with 32
    (300 batches each, a common part of 0.3). The interval of `mean_cosine`, where lengths do not count, held it 97 to
    99 times there too: with heavy-tailed lengths rely on that.

    Args:
        gradients: As `correlation_R`, with N >= 3 for an interval; with N = 2 its ends are NaN.

    Source:
        Efron and Stein (1981) for the jackknife; normal quantile 1.96.
    """
    value = float(correlation_R(gradients))
    n = len(gradients)
    if n < 3 or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    rows = gradients.double()
    rows = rows / rows.abs().amax()
    squares = rows.square().sum(dim=1)
    total = rows.sum(dim=0)
    products = total.square().sum() - squares.sum()
    without = products - 2 * (rows @ total - squares)
    kept = squares.sum() - squares
    values = without / (kept * (n - 2))
    if not bool(torch.isfinite(values).all()):
        return Estimate(value, math.nan, math.nan)
    error = math.sqrt(float((n - 1) / n * (values - values.mean()).square().sum()))
    return Estimate(value, value - 1.959964 * error, value + 1.959964 * error)


def _rows(name: str, gradients: Tensor) -> int:
    if gradients.ndim != 2 or len(gradients) < 2:
        raise ValueError(
            f"{name} compares examples: it needs gradients of shape [N, D] with N >= 2, got "
            f"{list(gradients.shape)}. Flatten with .flatten(start_dim=1)."
        )
    return len(gradients)
