"""How many paths of each length does a residual net hold?"""

import math
import operator
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradscope.theory._arguments import whole_number


def path_counts(polynomials: Iterable[Sequence[int]]) -> list[int]:
    """Number of paths crossing k residual functions, k = 0, 1, ..., through blocks in series.

    Each block is a generating function P(t) = sum_k (routes crossing k residual functions) t^k; blocks in
    series multiply. [1, 1] is a residual block, [0, 1] a plain layer, [1, k] k parallel branches.

    Args:
        polynomials: One sequence of coefficients a block, from t^0 upwards, whole numbers >= 0.

    Returns:
        Exact coefficients of the product, from t^0 upwards, as Python ints (float64 loses them beyond 2^53).
        [1] for no block at all.

    Raises:
        ValueError: a polynomial is empty or has a coefficient that is no whole number >= 0.

    Source:
        Veit et al. (2016), arXiv:1605.06431, for the unravelled view; the generating functions are derived.
    """
    product = [1]
    for position, polynomial in enumerate(polynomials):
        factor = _coefficients(polynomial, position)
        longer = [0] * (len(product) + len(factor) - 1)
        for i, left in enumerate(product):
            for j, right in enumerate(factor):
                longer[i + j] += left * right
        product = longer
    return product


def binomial_path_counts(blocks: int, branches: int = 1) -> list[int]:
    """C(n, k) m^k paths of length k = 0..n through n blocks x + F_1(x) + ... + F_m(x).

    Args:
        blocks: Number n of blocks, >= 1.
        branches: Number m of parallel residual functions a block, >= 1 (2 or more: multi-residual nets).

    Returns:
        n + 1 exact Python ints, summing to (1 + m)^n.

    Raises:
        ValueError: an argument is no whole number of at least 1.

    Source:
        Veit et al. (2016), arXiv:1605.06431; Abdi & Nahavandi, arXiv:1609.05672, for m > 1 (count derived).
    """
    n, m = whole_number(blocks, "blocks", 1), whole_number(branches, "branches", 1)
    return [math.comb(n, k) * m**k for k in range(n + 1)]


def mass_between(counts: Sequence[int] | Sequence[float] | NDArray[np.float64], low: int, high: int) -> float:
    """Share of all paths whose length is in low..high, both ends included.

    Args:
        counts: Entry k is the number (or weight, >= 0) of paths of length k.
        low: Shortest length counted, >= 0.
        high: Longest length counted, from `low` to len(counts) - 1.

    Returns:
        Fraction in [0, 1], correctly rounded for whole numbers of any size.

    Raises:
        ValueError: the band is not inside the counts, or the counts are negative or sum to zero.

    Source:
        Veit et al. (2016), arXiv:1605.06431: lengths 5..17 of 54 blocks hold 0.45 % of all paths.
    """
    shortest = whole_number(low, "low", 0)
    longest = whole_number(high, "high", shortest)
    if longest >= len(counts):
        raise ValueError(f"high is {longest}, but the counts end at length {len(counts) - 1}.")
    weights = [_exact(count) for count in counts]
    total = sum(weights)
    # written so that NaN is refused too
    if not (total > 0 and min(weights) >= 0):
        raise ValueError("mass_between needs counts >= 0 of which one is positive.")
    return float(sum(weights[shortest : longest + 1]) / total)


def surviving_fraction(blocks: int, deleted: int, length: int) -> float:
    """Share C(n - d, x) / C(n, x) of the paths of length x left after deleting d of n blocks.

    Args:
        blocks: Number n of blocks, >= 1.
        deleted: Number d of deleted blocks, 0..n.
        length: Path length x, 0..n.

    Returns:
        Fraction in [0, 1]: 1 at length 0, and 0 where length > n - d.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived; idea: Veit et al. (2016), arXiv:1605.06431, section 6.
    """
    n = whole_number(blocks, "blocks", 1)
    d, x = whole_number(deleted, "deleted", 0), whole_number(length, "length", 0)
    if d > n or x > n:
        raise ValueError(f"Of {n} blocks one cannot delete {d} or cross {x}.")
    return math.comb(n - d, x) / math.comb(n, x)


def _coefficients(polynomial: Sequence[int], position: int) -> list[int]:
    try:
        factor = [operator.index(coefficient) for coefficient in polynomial]
    except TypeError:
        factor = []
    if not factor or min(factor) < 0:
        raise ValueError(
            f"Block {position} needs a list of whole numbers >= 0, one per power of t, got {polynomial!r}. "
            "For weights or probabilities use initialisation_path_lengths."
        )
    return factor


def _exact(count: float) -> int | float:
    try:
        return operator.index(count)  # type: ignore[arg-type]
    except TypeError:
        return float(count)
