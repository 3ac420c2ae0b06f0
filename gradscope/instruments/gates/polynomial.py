"""What a gate with formal variables does to a cotangent: back-propagation over truncated polynomials."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from torch import Tensor

Index = tuple[int, ...]


@dataclass(frozen=True)
class Gate:
    """What multiplies the cotangent on an edge: factor * (constant + t_variable).

    With `Gate(0)` every crossing counts once, so that coefficient k of the gradient is its part through k
    crossings. `Gate(0, constant=1)` expands about t = 1 instead: coefficient j is sum_k C(k, j) g_k. Without a
    variable, `Gate(constant=1, factor=s)` multiplies by s.

    Attributes:
        variable: Which formal variable, from 0; None for none.
        constant: What is added to it.
        factor: Of the whole; a tensor [M] where M backward runs differ in it.
    """

    variable: int | None = None
    constant: float = 0.0
    factor: float | Tensor = 1.0

    def of(self, member: int) -> float:
        """The factor in one of the runs."""
        return float(self.factor[member]) if isinstance(self.factor, Tensor) else self.factor


@dataclass(frozen=True)
class Powers:
    """Which coefficients of a polynomial in several variables are kept: all up to a degree in each.

    Attributes:
        degrees: The highest power of each variable.
    """

    degrees: Index

    @property
    def shape(self) -> Index:
        return tuple(degree + 1 for degree in self.degrees)

    def __len__(self) -> int:
        return prod(self.shape)

    def indices(self) -> Iterator[Index]:
        """Exponents in lexicographic order, so that whatever a coefficient needs comes before it."""
        return itertools.product(*(range(size) for size in self.shape))

    def below(self, index: Index, variable: int) -> Index | None:
        """The exponents that the variable lifts to `index`; None if there are none."""
        if index[variable] == 0:
            return None
        return (*index[:variable], index[variable] - 1, *index[variable + 1 :])
