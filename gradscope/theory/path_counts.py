"""How many paths of each length does a residual net hold?"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import whole_number
from gradscope.theory._polynomials import coefficients, product


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
    counts = [1]
    for position, polynomial in enumerate(polynomials):
        counts = product(counts, coefficients(polynomial, position))
    return counts


def weighted_path_counts(polynomials: Iterable[Sequence[int]], scales: ArrayLike) -> NDArray[np.float64]:
    """Sum over the paths of each length of the product of the scales of the branches they cross.

    Block l contributes P_l(s_l t). With s_l the factor of a scaled branch x + s F(x) this is the weight that
    counting alone gives to a length; with s_l = p_l the probability of keeping block l it is the expected number
    of paths under stochastic depth, prod (1 + p_l t); with s_l = h the weight of the steps of an ODE solver.

    Args:
        polynomials: One sequence of coefficients a block, as in `path_counts`.
        scales: Finite factors s_l of either sign, one a block, shape [n], or one number for all.

    Returns:
        Coefficients of the product, from t^0 upwards, float64.

    Raises:
        ValueError: A polynomial is none, or the scales are not one finite number a block.

    Source:
        Derived; scaled branches: Szegedy et al. (2016), arXiv:1602.07261; stochastic depth: Huang et al. (2016),
        arXiv:1603.09382; ODE steps: Chang et al. (2017), arXiv:1710.10348.
    """
    blocks = [coefficients(polynomial, place) for place, polynomial in enumerate(polynomials)]
    factors = np.asarray(scales, dtype=np.float64)
    if factors.ndim == 0:
        factors = np.full(len(blocks), float(factors))
    if factors.shape != (len(blocks),) or not np.isfinite(factors).all():
        raise ValueError(
            f"scales are finite, one for all {len(blocks)} blocks or one for each, got {scales!r}."
        )
    weights = np.ones(1)
    for block, scale in zip(blocks, factors, strict=True):
        weights = np.convolve(weights, np.array(block, dtype=np.float64) * scale ** np.arange(len(block)))
    return weights


def graded_path_counts(polynomials: Iterable[ArrayLike]) -> NDArray[np.object_]:
    """Number of paths by several lengths at once, such as attention and MLP branches crossed.

    Args:
        polynomials: One array of whole numbers >= 0 a block, all with the same number D of dimensions: entry
            [i, j] is the number of routes crossing i functions of the first kind and j of the second.

    Returns:
        Exact coefficients of the product as Python ints, shape [K_1 + 1, ..., K_D + 1], dtype object. Its sums
        over anti-diagonals are `path_counts` of the blocks without the distinction.

    Raises:
        ValueError: There is no block, or a block is no array of whole numbers >= 0 with as many dimensions as
            the first.

    Source:
        Derived.
    """
    counts: NDArray[np.object_] | None = None
    for place, polynomial in enumerate(polynomials):
        block = np.asarray(polynomial, dtype=object)
        dimensions = block.ndim if counts is None else counts.ndim
        whole = all(isinstance(entry, int | np.integer) and entry >= 0 for entry in block.flat)
        if block.size == 0 or not whole or block.ndim != dimensions or block.ndim == 0:
            raise ValueError(
                f"Block {place} needs an array of whole numbers >= 0 with {max(dimensions, 1)} dimensions, one "
                f"per variable, got {polynomial!r}."
            )
        counts = _all_products(np.ones((1,) * block.ndim, dtype=object) if counts is None else counts, block)
    if counts is None:
        raise ValueError(
            "graded_path_counts needs at least one block, for the number of variables is theirs."
        )
    return counts


def _all_products(left: NDArray[np.object_], right: NDArray[np.object_]) -> NDArray[np.object_]:
    shape = [a + b - 1 for a, b in zip(left.shape, right.shape, strict=True)]
    longer = np.zeros(shape, dtype=object)
    for index in np.ndindex(right.shape):
        if right[index]:
            window = tuple(slice(i, i + size) for i, size in zip(index, left.shape, strict=True))
            longer[window] = longer[window] + left * int(right[index])
    return longer


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


def _exact(count: float) -> int | float:
    try:
        return operator.index(count)  # type: ignore[arg-type]
    except TypeError:
        return float(count)
