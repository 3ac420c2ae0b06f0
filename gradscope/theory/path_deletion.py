"""Which paths are left when blocks are deleted?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from gradscope.theory._arguments import whole_number
from gradscope.theory._polynomials import coefficients


def surviving_share(blocks: int, deleted: int, low: int, high: int) -> float:
    """Share of all paths of lengths low..high that is left after deleting d of n blocks x + F(x).

    sum_x C(n - d, x) / sum_x C(n, x): long paths die first. Of the paths of lengths 5..17 of 54 blocks, 1.9 %
    are left after 10 deletions and 0.012 % after 20.

    Args:
        blocks: Number n of blocks, >= 1.
        deleted: Number d of deleted blocks, 0..n.
        low: Shortest length pooled, >= 0.
        high: Longest length pooled, from `low` to n.

    Returns:
        Fraction in [0, 1], correctly rounded. For one length: `surviving_fraction`.

    Raises:
        ValueError: An argument is outside its range.

    Source:
        Derived; idea: Veit et al. (2016), arXiv:1605.06431, section 6.
    """
    n, d = _deletion(blocks, deleted)
    shortest = whole_number(low, "low", 0)
    longest = whole_number(high, "high", shortest)
    if longest > n:
        raise ValueError(f"high is {longest}, but {n} blocks have no path longer than {n}.")
    band = range(shortest, longest + 1)
    return float(Fraction(sum(math.comb(n - d, x) for x in band), sum(math.comb(n, x) for x in band)))


def paths_by_deleted_blocks(blocks: int, deleted: int, length: int) -> list[int]:
    """Of all paths of length x, how many cross j = 0, 1, ..., d of the d deleted blocks.

    C(d, j) C(n - d, x - j). They add up to C(n, x), which is Vandermonde's identity; entry 0 survives.

    Args:
        blocks: Number n of blocks x + F(x), >= 1.
        deleted: Number d of deleted blocks, 0..n.
        length: Path length x, 0..n.

    Returns:
        d + 1 exact Python ints.

    Raises:
        ValueError: An argument is outside its range.

    Source:
        Derived.
    """
    n, d = _deletion(blocks, deleted)
    x = whole_number(length, "length", 0)
    if x > n:
        raise ValueError(f"length is {x}, but {n} blocks have no path longer than {n}.")
    return [math.comb(d, j) * math.comb(n - d, x - j) if j <= x else 0 for j in range(d + 1)]


def path_counts_after_deletion(polynomials: Iterable[Sequence[int]], deleted: int) -> list[float]:
    """Expected number of paths of each length after closing all branches of d blocks drawn at random.

    A closed block keeps the routes of length 0 that it has. The mean over all C(n, d) sets is the coefficient of
    u^d of prod (P_l(t) + u P_l(0)), divided by C(n, d). For n blocks x + F(x): C(n - d, k) exactly.

    Args:
        polynomials: One sequence of coefficients a block, as in `path_counts`.
        deleted: Number d of closed blocks, 0..n.

    Returns:
        Entry k is the mean number of paths of length k, correctly rounded. A plain chain is left with none.

    Raises:
        ValueError: A polynomial is none, or more blocks are to be deleted than there are.

    Source:
        Derived; idea: Veit et al. (2016), arXiv:1605.06431, section 6.
    """
    blocks = [coefficients(polynomial, place) for place, polynomial in enumerate(polynomials)]
    d = whole_number(deleted, "deleted", 0)
    if d > len(blocks):
        raise ValueError(f"Of {len(blocks)} blocks one cannot delete {d}.")
    length = 1 + sum(len(block) - 1 for block in blocks)
    # One row per number of blocks closed so far, one column per length.
    table = [[0] * length for _ in range(d + 1)]
    table[0][0] = 1
    for block in blocks:
        after = [[0] * length for _ in range(d + 1)]
        for closed, row in enumerate(table):
            for k, count in enumerate(row):
                if not count:
                    continue
                for i, routes in enumerate(block):
                    if routes:
                        after[closed][k + i] += count * routes
                if closed < d:
                    after[closed + 1][k] += count * block[0]
        table = after
    return [float(Fraction(count, math.comb(len(blocks), d))) for count in table[d]]


def _deletion(blocks: int, deleted: int) -> tuple[int, int]:
    n, d = whole_number(blocks, "blocks", 1), whole_number(deleted, "deleted", 0)
    if d > n:
        raise ValueError(f"Of {n} blocks one cannot delete {d}.")
    return n, d
