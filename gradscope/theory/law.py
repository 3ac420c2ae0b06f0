"""A law for the gradient correlation of a network, with what must hold for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import whole_number

Curve = Callable[[ArrayLike], NDArray[np.float64]]


@dataclass(frozen=True)
class Law:
    """A law for the gradient correlation of a network, or the reason why none is known.

    Attributes:
        name: Function of `gradscope.theory` that holds it; "" where no law is known.
        correlation: R as a function of the number of layers or blocks crossed; None where no law is known.
        conditions: What must hold beside the description, in words.
        source: Where it is stated.
        reason: Why no law is known; "" otherwise.
        within: R at the inputs of layers 1..L of one net of L layers, where that does not follow from `correlation`.
    """

    name: str
    correlation: Curve | None
    conditions: tuple[str, ...] = ()
    source: str = ""
    reason: str = ""
    within: Callable[[int], NDArray[np.float64]] | None = None

    @property
    def known(self) -> bool:
        """Whether there is a law."""
        return self.correlation is not None

    def by_layer(self, depth: int) -> NDArray[np.float64]:
        """R of the gradients at the inputs of layers (blocks) 1..L of one net, to be drawn over its readings.

        R is a product over the layers between, so that it is correlation(L) / correlation(m - 1) at layer m.

        Args:
            depth: Number L of layers of the net, >= 1.

        Returns:
            Shape [L]; entry 0, at the net's input, is correlation(L).

        Raises:
            ValueError: no law is known, or depth is no whole number of at least 1.
            FloatingPointError: R underflows within the net.
        """
        if self.correlation is None:
            raise ValueError(f"There is nothing to draw: {self.reason}.")
        layers = whole_number(depth, "depth", 1)
        if self.within is not None:
            return self.within(layers)
        return ratios(self.correlation(np.arange(1, layers + 1)))


def ratios(crossed: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is left between each layer and the last, from what is left between the first and each."""
    before = np.concatenate([[1.0], crossed[:-1]])
    if before.min() <= 0:
        raise FloatingPointError(f"R falls below float64's range within {len(crossed)} layers. Take fewer.")
    return np.asarray(crossed[-1] / before, dtype=np.float64)
