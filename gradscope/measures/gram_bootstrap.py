"""Intervals from examples drawn anew with replacement, off a Gram matrix alone.

Drawing B examples with replacement draws rows and columns of the Gram together. An example drawn twice would meet its
own copy as if it were another that agrees in every respect, so pairs of copies are left out. It suits ratios of sums
and quantiles over pairs, which `gram_jackknife` has far cheaper; no more ranks, extremes and condition numbers, for
copies make every drawn batch rank deficient.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradscope.measures.correlation import Estimate
from gradscope.measures.gram_cosines import pair_quantile
from gradscope.measures.gram_sums import GramSums, as_gram, gram_sums

# So many weights of pairs are held at a time: 32 MB.
_HELD = 2**22


def bootstrap_of_sums(
    gram: Tensor, statistic: Callable[[GramSums], Tensor], resamples: int, generator: torch.Generator
) -> Estimate:
    """A ratio of sums with the 2.5 % and 97.5 % quantiles of its values on examples drawn anew.

    The mean over the pairs that are left, times B (B - 1), stands for the sum over different examples.

    Args:
        gram: [B, B] with B >= 2.
        statistic: Of the sums, elementwise, such as `correlation_R_of_sums`.
        resamples: How many times B of the B examples are drawn; about 1000 for steady ends, none for no interval.
        generator: On the CPU.

    Returns:
        Value and interval; NaN where the value, or that of some resample, is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.
    """
    sums = gram_sums(gram)
    value = float(statistic(sums))
    if resamples < 2 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    counts = drawn_counts(len(gram), resamples, generator).to(gram.device)
    gram = as_gram("bootstrap_of_sums", gram) / sums.scale
    apart = gram - torch.diag(gram.diagonal())
    n = len(gram)
    pairs = n**2 - counts.square().sum(dim=1)
    between = ((counts @ apart) * counts).sum(dim=1) / pairs * n * (n - 1)
    trace = counts @ gram.diagonal()
    return _between(value, statistic(GramSums(trace, trace + between, n, sums.scale)))


def bootstrap_of_quantiles(
    matrix: Tensor, levels: Sequence[float], resamples: int, generator: torch.Generator
) -> list[Estimate]:
    """Quantiles over pairs of different examples with bootstrap 95 % intervals; all levels see the same draws.

    Pairs are sorted once; a resample weighs the pair of i and j by how often both were drawn, which is what sorting the
    drawn matrix, without pairs of copies, would give.

    Args:
        matrix: Symmetric, [B, B], such as `cosines`. Examples whose rows are NaN are left out before drawing.
        levels: In [0, 1].
        resamples: How many times the examples are drawn; none for no interval.
        generator: On the CPU.

    Returns:
        One estimate for each level, in the unit of the matrix; NaN without a pair.

    Source:
        Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.
    """
    values = [float(pair_quantile(matrix, level)) for level in levels]
    apart = matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool, device=matrix.device), torch.nan)
    kept = (~apart.isnan()).any(dim=1)
    matrix, n = matrix[kept][:, kept].double(), int(kept.sum())
    if resamples < 2 or n < 3:
        return [Estimate(value, math.nan, math.nan) for value in values]
    row, column = torch.triu_indices(n, n, offset=1, device=matrix.device)
    ordered, order = matrix[row, column].sort()
    row, column = row[order], column[order]
    drawn = []
    counts = drawn_counts(n, resamples, generator).to(matrix.device)
    for some in counts.split(max(1, _HELD // len(ordered))):
        reached = some.index_select(1, row).mul_(some.index_select(1, column)).cumsum(dim=1)
        drawn.append(torch.stack([_weighted(ordered, reached, level) for level in levels]))
    each = torch.cat(drawn, dim=1)
    return [_between(value, of_level) for value, of_level in zip(values, each, strict=True)]


def drawn_counts(examples: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each example comes up in each resample, [resamples, examples], rows summing to `examples`; float64."""
    drawn = torch.randint(examples, (resamples, examples), generator=generator)
    counts = torch.zeros(resamples, examples, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def _weighted(ordered: Tensor, reached: Tensor, level: float) -> Tensor:
    """Quantile of sorted values [M] of which each comes up as often as a row of `reached` [R, M] grows there, [R]."""
    place = level * (reached[:, -1:] - 1)
    ends = torch.searchsorted(reached, torch.cat([place.floor(), place.ceil()], dim=1), right=True)
    low, high = ordered[ends.clamp(max=len(ordered) - 1)].unbind(dim=1)
    return torch.lerp(low, high, (place - place.floor())[:, 0])


def _between(value: float, drawn: Tensor) -> Estimate:
    if not bool(torch.isfinite(drawn).all()):
        return Estimate(value, math.nan, math.nan)
    low, high = torch.quantile(
        drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype, device=drawn.device)
    ).tolist()
    return Estimate(value, min(low, value), max(high, value))
