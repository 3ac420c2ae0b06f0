"""Gradient signal-to-noise ratio of each parameter: is its mean gradient larger than its scatter over examples?"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SignalToNoiseSummary(NamedTuple):
    """What the ratios of many parameters say together.

    Attributes:
        mean: Mean over the parameters that vary over examples; NaN if none does.
        median: Their median, which a few steady parameters do not move; NaN if none varies.
        varying: How many parameters vary over examples.
        constant: How many have the same gradient for every example, not zero: their ratio is infinite.
        zero: How many have a zero gradient for every example: their ratio is undefined.
    """

    mean: Tensor
    median: Tensor
    varying: int
    constant: int
    zero: int


class SignalToNoise:
    """Mean and variance of each parameter's gradient over examples, from per-example gradients chunk by chunk.

    A Gram does not suffice: the scatter of each parameter is needed. Sums are kept of differences to the first
    example's gradient, so that large equal gradients do not cancel, and parameters that do not vary at all are known
    exactly (differences below 1e-162, whose squares are zero, count as none). Holds three numbers in float64 for each
    parameter, however many examples there are.

    Example:
        >>> ratios = SignalToNoise()
        >>> for gradients in chunks:  # [n, P]
        ...     ratios.add(gradients)
        >>> ratios.ratio()  # [P]

    Source:
        Liu et al. (2020), arXiv:2001.07384, definition of the GSNR.
    """

    def __init__(self) -> None:
        self.examples = 0
        self._first: Tensor | None = None
        self._sum = torch.zeros(0)
        self._squares = torch.zeros(0)

    def add(self, gradients: Tensor) -> None:
        """Take in the gradients of some examples.

        Args:
            gradients: One row per example, [n, P]; of each example's own loss, not divided by their number.

        Raises:
            ValueError: Not a matrix of examples, or another number of parameters than before.
        """
        if gradients.ndim != 2 or (self._first is not None and gradients.shape[1] != len(self._first)):
            known = "P" if self._first is None else len(self._first)
            raise ValueError(
                f"SignalToNoise adds gradients of shape [n, {known}], got {list(gradients.shape)}."
            )
        if len(gradients) == 0:
            return
        gradients = gradients.detach()
        if self._first is None:
            self._first = gradients[0].double().clone()
            self._sum, self._squares = torch.zeros_like(self._first), torch.zeros_like(self._first)
        for row in gradients:
            # Rows by themselves: a sum over the first axis of a large matrix is far slower than these two passes.
            apart = row.double() - self._first
            self._sum.add_(apart)
            self._squares.addcmul_(apart, apart)
        self.examples += len(gradients)

    def mean(self) -> Tensor:
        """Mean gradient of each parameter, [P]; float64.

        Raises:
            ValueError: No example was added.
        """
        return self._start() + self._sum / self.examples

    def variance(self) -> Tensor:
        """Unbiased variance of each parameter's gradient over examples, [P]; 0 exactly where all are the same.

        Raises:
            ValueError: Fewer than two examples were added.
        """
        self._start(least=2)
        squares = self._squares - self._sum.square() / self.examples
        # Of numbers that differ, rounding could leave less than nothing.
        return squares.clamp(min=0) / (self.examples - 1)

    def ratio(self) -> Tensor:
        """Gradient signal-to-noise ratio, squared mean over variance, of each parameter, [P].

        Large when the examples agree, about 1 / n over n examples when there is no signal at all, since the mean of n
        is never quite zero. No epsilon: where the variance is zero the ratio is infinite, or NaN if the gradient is
        zero too.

        Raises:
            ValueError: Fewer than two examples were added.
        """
        return self.mean().square() / self.variance()

    def summary(self) -> SignalToNoiseSummary:
        """Mean and median ratio over the parameters that vary, and how many do not.

        Raises:
            ValueError: Fewer than two examples were added.
        """
        variance, mean = self.variance(), self.mean()
        steady = variance == 0
        varying = ~steady
        ratios = mean[varying].square() / variance[varying]
        nothing = mean.new_full((), torch.nan)
        return SignalToNoiseSummary(
            ratios.mean() if len(ratios) else nothing,
            ratios.sort().values[[(len(ratios) - 1) // 2, len(ratios) // 2]].mean()
            if len(ratios)
            else nothing,
            int(varying.sum()),
            int((steady & (mean != 0)).sum()),
            int((steady & (mean == 0)).sum()),
        )

    @classmethod
    def joined(cls, parts: Sequence["SignalToNoise"]) -> "SignalToNoise":
        """The statistics of several groups of parameters, over the same examples, as those of one group.

        Raises:
            ValueError: No groups, or groups of different numbers of examples.
        """
        if len({part.examples for part in parts}) != 1:
            raise ValueError(
                f"joined needs groups over the same examples, got {[part.examples for part in parts]} examples."
            )
        whole = cls()
        whole.examples = parts[0].examples
        whole._first = torch.cat([part._start() for part in parts])
        whole._sum = torch.cat([part._sum for part in parts])
        whole._squares = torch.cat([part._squares for part in parts])
        return whole

    def _start(self, least: int = 1) -> Tensor:
        if self._first is None or self.examples < least:
            raise ValueError(
                f"SignalToNoise needs the gradients of {least} examples or more, got {self.examples}. Call add() first."
            )
        return self._first
