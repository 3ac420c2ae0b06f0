"""Averages over examples that are met batch by batch, with their 95 % intervals."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradscope.measures.correlation import Estimate

GROUPS = 10


class Average:
    """Mean of one value per example; examples where it is undefined (NaN) are counted and left out."""

    def __init__(self) -> None:
        self.n = 0
        self.undefined = 0
        self.mean = 0.0
        self.squares = 0.0

    def add(self, values: Tensor) -> None:
        """Take in [N] further values."""
        values = values.double()
        kept = values[~values.isnan()]
        self.undefined += len(values) - len(kept)
        if len(kept) == 0:
            return
        mean, total = float(kept.mean()), self.n + len(kept)
        step = mean - self.mean
        # Chan, Golub and LeVeque (1979): nothing is lost where the spread is small beside the mean.
        self.squares += float((kept - mean).square().sum()) + step**2 * self.n * len(kept) / total
        self.mean += step * len(kept) / total
        self.n = total

    def estimate(self) -> Estimate:
        """Mean and Student-t interval; the interval is NaN for one example, all of it for none."""
        if self.n == 0:
            return Estimate(math.nan, math.nan, math.nan)
        if self.n == 1:
            return Estimate(self.mean, math.nan, math.nan)
        half = student(self.n - 1) * math.sqrt(self.squares / (self.n - 1) / self.n)
        return Estimate(self.mean, self.mean - half, self.mean + half)


class RatioOfMeans:
    """Ratio of the means of two values of the same examples, with a delta-method interval.

    Examples for which one of the two is undefined (NaN) are counted and left out.
    """

    def __init__(self) -> None:
        self.n = 0
        self.undefined = 0
        self.sums = torch.zeros(2, dtype=torch.float64)
        self.products = torch.zeros(2, 2, dtype=torch.float64)

    def add(self, above: Tensor, below: Tensor) -> None:
        """Take in [N] further pairs."""
        pairs = torch.stack([above, below]).double().cpu()
        kept = pairs[:, ~pairs.isnan().any(dim=0)]
        self.undefined += pairs.shape[1] - kept.shape[1]
        pairs = kept
        self.n += pairs.shape[1]
        self.sums += pairs.sum(dim=1)
        self.products += pairs @ pairs.T

    def estimate(self) -> Estimate:
        """Ratio and Student-t interval; NaN where the mean below is exactly zero, or a mean is not finite.

        Source:
            Cochran (1977), Sampling Techniques, equation 6.13.
        """
        above, below = self.sums.tolist()
        if below == 0 or not math.isfinite(above) or not math.isfinite(below):
            return Estimate(math.nan, math.nan, math.nan)
        ratio = above / below
        if self.n == 1:
            return Estimate(ratio, math.nan, math.nan)
        weights = torch.tensor([1.0, -ratio], dtype=torch.float64)
        residual = max(float(weights @ self.products @ weights), 0.0)
        half = student(self.n - 1) * math.sqrt(residual * self.n / (self.n - 1)) / abs(below)
        return Estimate(ratio, ratio - half, ratio + half)


class GroupedSums:
    """Sums over examples of a vector, in up to ten groups, so that functions of the mean have intervals."""

    def __init__(self, examples: int) -> None:
        self.groups = min(GROUPS, examples)
        self.sums: Tensor | None = None
        self.n = 0

    def add(self, values: Tensor) -> None:
        """Take in [N, ...] further vectors, example i into group i modulo their number.

        Raises:
            ValueError: Vectors of another shape than those before.
        """
        shape = values.shape[1:]
        if self.sums is None:
            self.sums = torch.zeros(self.groups, *shape, dtype=torch.float64, device=values.device)
        if self.sums.shape[1:] != shape:
            raise ValueError(
                f"Batches have states of different shapes, {list(self.sums.shape[1:])} and {list(shape)}, so "
                "there is no mean for each unit. Pass inputs of one size."
            )
        group = (torch.arange(len(values), device=values.device) + self.n) % self.groups
        self.sums.index_add_(0, group, values.double())
        self.n += len(values)

    def estimates(self, statistic: Callable[[Tensor], Tensor]) -> list[Estimate]:
        """`statistic(mean vector)`, [P], with its delete-a-group jackknife intervals.

        Source:
            Kott (2001), The delete-a-group jackknife.
        """
        if self.sums is None:
            raise ValueError("No examples were taken in.")
        whole = self.sums.sum(dim=0)
        values = statistic(whole / self.n)
        if self.groups < 2:
            return [Estimate(value, math.nan, math.nan) for value in values.tolist()]
        sizes = [len(range(group, self.n, self.groups)) for group in range(self.groups)]
        without = torch.stack(
            [statistic((whole - own) / (self.n - size)) for own, size in zip(self.sums, sizes, strict=True)]
        )
        spread = (without - without.mean(dim=0)).square().sum(dim=0)
        half = student(self.groups - 1) * ((self.groups - 1) / self.groups * spread).sqrt()
        return [
            Estimate(value, value - own, value + own)
            for value, own in zip(values.tolist(), half.tolist(), strict=True)
        ]


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
