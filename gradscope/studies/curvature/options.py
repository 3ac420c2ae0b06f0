"""Options of a study, refused before anything is measured."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

Limits = Mapping[str, tuple[Any, float]]


def check_whole(given: Limits) -> None:
    """Refuse what is no whole number, or below its least.

    Args:
        given: By name, the number and the least it may be.

    Raises:
        ValueError: Names the option, what is wanted and what came.
    """
    for name, (value, least) in given.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} is a whole number, {name} >= {least}, got {value!r}.")


def check_between(given: Mapping[str, tuple[Any, float, float]]) -> None:
    """Refuse what is no number strictly between its ends, given by name as (number, low, high).

    Raises:
        ValueError: Names the option, what is wanted and what came.
    """
    for name, (value, low, high) in given.items():
        if not isinstance(value, int | float) or not low < value < high:
            raise ValueError(f"{name} is a number with {low:g} < {name} < {high:g}, got {value!r}.")
