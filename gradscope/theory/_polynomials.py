"""Checks and products of path polynomials, exact for whole numbers of any size."""

from __future__ import annotations

import operator
from collections.abc import Sequence


def coefficients(polynomial: Sequence[int], position: int) -> list[int]:
    """`polynomial` as Python ints, or a ValueError naming the block whose coefficients are none."""
    try:
        factor = [operator.index(coefficient) for coefficient in polynomial]
    except TypeError:
        factor = []
    if not factor or min(factor) < 0:
        raise ValueError(
            f"Block {position} needs a list of whole numbers >= 0, one per power of t, got {polynomial!r}. "
            "For weights or probabilities use weighted_path_counts."
        )
    return factor


def product(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Coefficients of the product of two polynomials, from t^0 upwards."""
    longer = [0] * (len(left) + len(right) - 1)
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            longer[i + j] += one * other
    return longer


def power(polynomial: Sequence[int], exponent: int) -> list[int]:
    """Coefficients of `polynomial` to a whole power >= 0, from t^0 upwards."""
    result = [1]
    for _ in range(exponent):
        result = product(result, polynomial)
    return result


def plus(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Coefficients of the sum of two polynomials, from t^0 upwards."""
    total = [0] * max(len(left), len(right))
    for polynomial in (left, right):
        for k, coefficient in enumerate(polynomial):
            total[k] += coefficient
    return total
