"""Intervals for proportions."""

import math

from gradscope.measures.correlation import Estimate


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion with its Wilson score interval at 95 %: honest near 0 and 1, where error rates live.

    Args:
        successes: Count of successes, 0..trials.
        trials: Number of trials, at least 1.

    Raises:
        ValueError: No trials, or more successes than trials.

    Source:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"wilson needs 0 <= successes <= trials and a trial, got {successes} of {trials}.")
    z2 = 1.959964**2
    share = successes / trials
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    # The interval holds the share and lies in [0, 1]; rounding must not say otherwise.
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))
