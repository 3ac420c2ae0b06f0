"""Intervals from leaving one example out, off a Gram matrix alone.

The jackknife suits smooth statistics: ratios of sums (R, both parts of the noise scale) and means over pairs (of
cosines, of signs, of being negative, within or between classes). Diversity, m-coherence and the simple noise scale are
functions of R and B, so that the interval of R is carried over to them, which keeps it within their range. For
quantiles over pairs the jackknife itself is inconsistent, but that of the share of pairs below one is not, and is
turned around (`jackknife_of_quantile`); `gram_bootstrap` is the other way. Extremes (confusion), ranks and condition
numbers change with the number of examples itself, so that nothing here suits them and they bear no interval.

Ratios of sums hang on the examples with the longest gradients, so that their errors are multiplied by Student's
quantile for `effective_examples` less one rather than by 1.96, and that of tr(Sigma) is taken of its logarithm. How
often 95 % intervals hold the truth, with 8, 16 and 64 examples of Gaussian directions with a common part as long as the
noise, and norms that are equal or multiplied by exp(s z), z normal (400 batches each):

- equal norms: R 97, 96, 96; squared gradient 95, 96, 96; covariance trace 97, 95, 94;
- s = 0.5: R 92, 91, 88; squared gradient 89, 94, 92; covariance trace 88, 91, 90;
- s = 1, as losses may do: R 84, 79, 72 (with half the common part 96, 87, 74); squared gradient 80, 89, 90; covariance
  trace 76, 82, 81.

So with uneven norms they are too narrow, and more examples do not soon help; `effective_examples` tells (about B / 2 at
s = 0.5, B / 3 to B / 7 at s = 1). Means of cosines do not see norms and hold the truth 92 to 98 times.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from gradscope.measures.correlation import Estimate
from gradscope.measures.gram_cosines import pairs, quantile
from gradscope.measures.gram_sums import GramSums, gram_sums, leave_one_out_sums

NORMAL_97 = 1.959964
# e to the power of more is no float.
_LARGEST_POWER = 709.0


def effective_examples(gram: Tensor) -> float:
    """So many examples of equal norm have as uneven a sum of squared norms: (sum K_ii)^2 / sum K_ii^2.

    B when all gradients are of one length, near 1 when one of them is longer than all others together; NaN of zeros.

    Args:
        gram: [B, B].

    Source:
        Kish (1965), Survey sampling, for the effective sample size of weights.
    """
    squares = gram.diagonal().double()
    squares = squares / squares.amax()
    return float(squares.sum().square() / squares.square().sum())


def jackknife_of_sums(
    gram: Tensor, statistic: Callable[[GramSums], Tensor], *, logarithm: bool = False
) -> Estimate:
    """A ratio of sums with its jackknife 95 % interval over examples, in O(B^2).

    Student's quantile belongs to the error, with `effective_examples` less one degrees of freedom, at least one; see
    above for how often the truth is held.

    Args:
        gram: [B, B]; with B >= 3 for an interval.
        statistic: Of the sums, elementwise, such as `correlation_R_of_sums`.
        logarithm: Take the error of the logarithm, for what cannot be negative: it holds a trace more often. Where a
            value, of all examples or without one of them, is not positive, the error is that of the value itself.

    Returns:
        Value and interval in the unit of the statistic; NaN where the value, or that without some example, is not
        finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Efron and Stein (1981), The jackknife estimate of variance; Student's quantile.
    """
    value = float(statistic(gram_sums(gram)))
    if len(gram) < 3 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    without = statistic(leave_one_out_sums(gram))
    quantile_97 = students_quantile(max(effective_examples(gram) - 1, 1.0))
    if logarithm and value > 0 and bool((without > 0).all()):
        # Relative to the value, so that its own logarithm is 0 and ends are factors.
        found = _interval(0.0, (without / value).log(), quantile_97)
        return Estimate(value, value * math.exp(found.low), value * math.exp(min(found.high, _LARGEST_POWER)))
    return _interval(value, without, quantile_97)


@lru_cache(maxsize=256)
def students_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t: 1.96 for many degrees of freedom, 12.7 for one; right to a ten-thousandth.

    With t = sqrt(freedom) tan(angle) its density is a power of the cosine on a bounded interval, summed up in steps.

    Args:
        freedom: Degrees of freedom, 1 or more, not necessarily whole.
    """
    # With more the quantile is the Gaussian's, and the steps below would be too coarse.
    freedom = min(freedom, 1e5)
    angles = torch.linspace(0, math.pi / 2, 40001, dtype=torch.float64)
    below = torch.cumulative_trapezoid(angles.cos().clamp(min=0) ** (freedom - 1), angles)
    wanted = 0.95 * below[-1]
    place = int(torch.searchsorted(below, wanted))
    before = float(below[place - 1])
    part = (float(wanted) - before) / (float(below[place]) - before)
    return math.sqrt(freedom) * math.tan(float(torch.lerp(angles[place], angles[place + 1], part)))


def jackknife_of_pairs(matrix: Tensor, chosen: Tensor | None = None) -> Estimate:
    """A mean over pairs of different examples with its jackknife 95 % interval over examples, in O(B^2).

    The B (B - 1) / 2 pairs are far fewer than so many independent values: leaving out examples, not pairs, sees that.

    Args:
        matrix: Symmetric, [B, B], such as `cosines`, or a 0/1 matrix for a share. NaN rows are left out.
        chosen: Which pairs count, symmetric, [B, B] bool; None for all. The diagonal never does.

    Returns:
        Value and interval in the unit of the matrix. NaN without a pair; the interval is NaN with fewer than three
        examples, or where leaving one out leaves no pair.

    Source:
        Efron and Stein (1981), The jackknife estimate of variance; Arvesen (1969) for means over pairs.
    """
    counted = ~matrix.isnan() if chosen is None else chosen & ~matrix.isnan()
    counted = counted & ~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    examples = ~matrix.diagonal().isnan() | counted.any(dim=1)
    values = torch.where(counted, matrix, 0.0).double()
    count, total = counted.double().sum(), values.sum()
    value = float(total / count)
    if int(examples.sum()) < 3 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    without = (total - 2 * values.sum(dim=1)) / (count - 2 * counted.double().sum(dim=1))
    return _interval(value, without[examples])


def jackknife_of_share(matrix: Tensor) -> Estimate:
    """A share of pairs of different examples with a 95 % interval, honest near 0 and 1, in O(B^2).

    Wilson's interval, with the number of trials at which a share would have the jackknife's error: at least B / 2,
    since so many pairs have no example in common, at most the number of pairs. Where all pairs are on one side the
    jackknife knows no error; the interval then is that of B / 2 independent pairs that are all alike, which is valid,
    and wide: up to 0.60 for a share of 0 with 8 examples, 0.11 with 64.

    Args:
        matrix: Symmetric, [B, B], of zeros and ones (or between). NaN rows are left out.

    Returns:
        Value and interval in [0, 1]. NaN without a pair; the interval is NaN with fewer than three examples. Of signs
        of Gaussian products it holds shares from 0.02 to 0.5 94 to 99 times in 100 with 8 to 64 examples, 86 to 88 at
        worst, in few dimensions.

    Source:
        Wilson (1927), Probable inference; Korn and Graubard (1998), Confidence intervals for proportions with small
        expected number of positive counts, for the effective trials; Clopper and Pearson (1934) where all are alike.
    """
    plain = jackknife_of_pairs(matrix)
    if math.isnan(plain.low):
        return plain
    share = plain.value
    apart = ~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    examples = int((~matrix.isnan() & apart).any(dim=1).sum())
    if share in (0.0, 1.0):
        bound = 1 - 0.025 ** (1 / (examples // 2))
        return Estimate(share, 0.0, bound) if share == 0 else Estimate(share, 1 - bound, 1.0)
    error = (plain.high - plain.low) / (2 * NORMAL_97)
    trials = share * (1 - share) / error**2 if error > 0 else 0.0
    trials = min(max(trials, examples // 2), examples * (examples - 1) / 2)
    z2 = NORMAL_97**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def jackknife_of_quantile(matrix: Tensor, level: float) -> Estimate:
    """A quantile over pairs of different examples with a 95 % interval, in O(B^2 log B).

    The share of pairs up to the quantile is a mean over pairs, whose jackknife error says which other levels might be
    the right one; the interval is between the quantiles at these. No randomness, and far cheaper than drawing examples.

    Args:
        matrix: Symmetric, [B, B], such as `cosines`. NaN rows are left out.
        level: In [0, 1], not the extremes: near 0 or 1 hardly a pair is on the other side.

    Returns:
        Value and interval in the unit of the matrix. NaN without a pair; the interval is NaN with fewer than three
        examples. Of cosines of Gaussian gradients with a common part it holds the median 95 to 96 times in 100 with 10
        to 60 examples; the 5 % quantile, of which few examples know little, 76 with 10, 97 with 30.

    Source:
        Woodruff (1952), Confidence intervals for medians and other position measures.
    """
    values = pairs(matrix).double().sort().values
    value = quantile(values, level)
    below = torch.where(matrix.isnan(), matrix, (matrix <= value).to(matrix.dtype))
    share = jackknife_of_pairs(below)
    if math.isnan(share.low):
        return Estimate(float(value), math.nan, math.nan)
    half = (share.high - share.low) / 2
    low, high = (quantile(values, min(max(level + side, 0.0), 1.0)) for side in (-half, half))
    return Estimate(float(value), float(low), float(high))


def carried(estimate: Estimate, value: float, function: Callable[[float], float]) -> Estimate:
    """An interval carried over to another quantity by a monotone function of the first.

    Args:
        estimate: Of the first quantity.
        value: Of the other one.
        function: Rising or falling, on all numbers; infinite where an end has no finite counterpart.
    """
    if math.isnan(value) or math.isnan(estimate.low):
        return Estimate(value, math.nan, math.nan)
    ends = sorted((function(estimate.low), function(estimate.high)))
    return Estimate(value, *ends)


def within(estimate: Estimate, least: float, most: float) -> Estimate:
    """An interval cut at the ends of what its quantity can be, which loses no truth."""
    if math.isnan(estimate.low):
        return estimate
    return estimate._replace(low=max(estimate.low, least), high=min(estimate.high, most))


def _interval(value: float, without: Tensor, quantile_97: float = NORMAL_97) -> Estimate:
    if not bool(torch.isfinite(without).all()):
        return Estimate(value, math.nan, math.nan)
    n = len(without)
    error = math.sqrt(float((n - 1) / n * (without - without.mean()).square().sum()))
    return Estimate(value, value - quantile_97 * error, value + quantile_97 * error)
