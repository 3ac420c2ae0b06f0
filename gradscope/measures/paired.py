"""Does a network change its answers? Tests and intervals for two conditions on the same examples."""

import math

import torch
from torch import Tensor

from gradscope.measures.correlation import Estimate
from gradscope.measures.intervals import NORMAL_97


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value that examples change sides equally often in both directions.

    Given their number, those that turn from right to wrong are binomial with probability 1/2 if the change
    does not matter; examples that stay as they were say nothing. 1 when nothing changes sides.

    Args:
        lost: Examples right before and wrong after.
        gained: Examples wrong before and right after.

    Raises:
        ValueError: A negative count.

    Source:
        McNemar (1947), Note on the sampling error of the difference between correlated proportions.
    """
    if lost < 0 or gained < 0:
        raise ValueError(f"mcnemar counts examples, got {lost} lost and {gained} gained.")
    changed, fewer = lost + gained, min(lost, gained)
    # Whole numbers to the end: the tail of a thousand changes underflows in floating point.
    term = tail = 1
    for successes in range(fewer):
        term = term * (changed - successes) // (successes + 1)
        tail += term
    return min(1.0, 2 * tail / 2**changed)


def paired_difference(lost: int, gained: int, examples: int) -> Estimate:
    """The rise of an error rate on the same examples, with its 95 % interval.

    The score interval: every difference that is no more than 1.96 standard errors from the one found, where the
    standard error is the one that the difference itself implies. So it keeps its width when nothing changes.
    It holds the true difference about 95 times in 100; at worst 93, where few change sides and all one way.

    Args:
        lost: Examples right before and wrong after.
        gained: Examples wrong before and right after.
        examples: All examples, at least lost + gained and 1.

    Returns:
        (lost - gained) / examples, in [-1, 1], and its interval.

    Raises:
        ValueError: Counts that do not fit.

    Source:
        Tango (1998), Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design.
    """
    if lost < 0 or gained < 0 or examples < max(1, lost + gained):
        raise ValueError(
            f"paired_difference needs counts of changed examples among all, got {lost} lost and {gained} gained "
            f"of {examples}."
        )
    value = (lost - gained) / examples
    low, high = (_score_limit(lost, gained, examples, end) for end in (-1.0, 1.0))
    return Estimate(value, low, high)


def _score_limit(lost: int, gained: int, examples: int, end: float) -> float:
    """The farthest difference towards `end` that the counts do not rule out, by bisection to rounding."""
    inside, outside = (lost - gained) / examples, end
    for _ in range(60):
        middle = (inside + outside) / 2
        # The share gained that is most likely if the true difference is `middle`.
        linear = (2 * examples - lost + gained) * middle - lost - gained
        constant = gained * middle * (1 - middle)
        share = (math.sqrt(linear**2 + 8 * examples * constant) - linear) / (4 * examples)
        variance = examples * (2 * share + middle * (1 - middle))
        if (lost - gained - examples * middle) ** 2 <= NORMAL_97**2 * variance:
            inside = middle
        else:
            outside = middle
    return inside


def bootstrap_p_value(value: float, means: Tensor) -> float:
    """Two-sided p-value that a mean is zero: how often bootstrap means stray from it as far as it is from 0.

    Rejects too often for few examples: of normal values with mean 0, at the level of 5 in 100, 51 times in 100 with
    2 examples, 16 with 5, 10 with 10, 7 with 30. Where all examples agree, it is as small as it can be, however
    few they are.

    Args:
        value: The mean over the examples themselves.
        means: Its bootstrap means, [resamples].

    Returns:
        In [1 / (resamples + 1), 1], never 0; 1 for a mean of exactly 0.

    Source:
        Davison and Hinkley (1997), Bootstrap methods and their application, section 4.4.
    """
    as_far = int(((means - value).abs() >= abs(value)).sum())
    return (1 + as_far) / (len(means) + 1)


def holm(p_values: Tensor) -> Tensor:
    """p-values adjusted so that the chance of any false alarm among them stays below the level.

    The smallest of m is multiplied by m, the next by m - 1, and so on, and none may fall below one before it.

    Args:
        p_values: [M], each in [0, 1].

    Returns:
        [M] in the same order, float64, in [0, 1].

    Raises:
        ValueError: Not a vector of probabilities.

    Source:
        Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    given = p_values.double()
    if given.ndim != 1 or not bool(((given >= 0) & (given <= 1)).all()):
        raise ValueError(f"holm adjusts a vector of p-values in [0, 1], got {p_values.tolist()}.")
    if len(given) == 0:
        return given
    order = given.argsort(stable=True)
    factors = torch.arange(len(given), 0, -1, dtype=torch.float64)
    raised = (given[order] * factors).cummax(dim=0).values.clamp(max=1.0)
    return torch.empty_like(given).scatter_(0, order, raised)
