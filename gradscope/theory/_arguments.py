"""Checks of arguments that every law of this room shares."""

from __future__ import annotations

import math
import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray


def whole_number(value: int, name: str, least: int) -> int:
    """`value` as an int, or a ValueError naming it when it is no whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is a whole number of at least {least}, got {value!r}.") from None
    if number < least:
        raise ValueError(f"{name} is a whole number of at least {least}, got {number}.")
    return number


def real_number(value: float, name: str, *, above: float | None = None, least: float | None = None) -> float:
    """`value` as a finite float, > `above` or >= `least` where given, or a ValueError naming it."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}.")
    if above is not None and number <= above:
        raise ValueError(f"{name} must be above {above}, got {number}.")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    return number


def correlation(value: float, name: str) -> float:
    """`value` as a float in [-1, 1], or a ValueError naming it."""
    number = real_number(value, name)
    if abs(number) > 1:
        raise ValueError(f"{name} is a correlation, in [-1, 1], got {number}.")
    return number


def depths(depth: ArrayLike) -> NDArray[np.int64]:
    """`depth` as an integer array of any shape, or a ValueError when some entry is no layer count."""
    array = np.asarray(depth)
    if array.size == 0 or array.dtype.kind not in "iu" or array.min() < 1:
        raise ValueError(
            f"depth counts layers: whole numbers of at least 1, got {depth!r}. Depth 0 is the input itself."
        )
    return array.astype(np.int64)


def matrix(value: ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """`value` as a finite float64 matrix, of `shape` where given, or a ValueError naming it."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be a matrix, got shape {list(array.shape)}.")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity; look at where it was computed.")
    return array


def square_matrix(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """`value` as a finite square float64 matrix, or a ValueError naming it."""
    array = matrix(value, name)
    if array.shape[0] != array.shape[1]:
        raise ValueError(f"{name} must be a square matrix, got shape {list(array.shape)}.")
    return array
