"""Cosines of every two examples' gradients, and what their distribution says in one number each."""

import torch
from torch import Tensor

from gradscope.measures.gram_sums import as_gram


def cosines(gram: Tensor) -> Tensor:
    """Cosine matrix: products of every two examples' gradients over their norms.

    1 where two examples pull the same way, 0 where they do not care for each other, -1 where each undoes the other.
    Rows are divided by one norm after the other, never by a norm plus an epsilon, so that the scale of a Gram
    does not matter down to the smallest normal number.

    Args:
        gram: [B, B] with B >= 2; off-diagonal entries may have any sign.

    Returns:
        [B, B], dimensionless, in [-1, 1] up to rounding, with ones on the diagonal; float64. Rows and columns of
        gradients that are zero, or whose squared norm is not finite, are NaN: they have no direction.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, where gradients of two inputs are compared; the cosine normalises
        each pair rather than the average.
    """
    gram = as_gram("cosines", gram)
    diagonal = gram.diagonal()
    defined = (diagonal > 0) & torch.isfinite(diagonal)
    norms = torch.where(defined, diagonal, torch.full_like(diagonal, torch.nan)).sqrt()
    matrix = gram / norms[:, None] / norms[None, :]
    return torch.where(torch.eye(len(gram), dtype=torch.bool, device=gram.device) & defined, 1.0, matrix)


def pairs(matrix: Tensor) -> Tensor:
    """The values of all pairs of different examples, each pair once, those that are NaN left out.

    Args:
        matrix: Symmetric, [B, B], such as a Gram or a cosine matrix.

    Returns:
        At most B (B - 1) / 2 values.
    """
    above = torch.ones_like(matrix, dtype=torch.bool).triu(diagonal=1)
    values = matrix[above]
    return values[~values.isnan()]


def pair_mean(matrix: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Mean over pairs of different examples; of cosines, 1 when all agree and near 0 for white noise.

    Args:
        matrix: Symmetric, [B, B], such as `cosines`; pairs that are NaN are left out.
        chosen: Which pairs count, symmetric, [B, B] bool; None for all. The diagonal never does.

    Returns:
        Scalar in the unit of `matrix`, of cosines in [-1/(B-1), 1]; NaN if no pair is left.

    Source:
        Fort et al. (2019), Stiffness, arXiv:1901.09491: over cosines, S_cos.
    """
    return _mean(pairs(matrix if chosen is None else matrix.masked_fill(~chosen, torch.nan)))


def pair_median(matrix: Tensor) -> Tensor:
    """Median over pairs of different examples: half of the pairs agree less. NaN without a pair.

    Args:
        matrix: Symmetric, [B, B]; pairs that are NaN are left out.
    """
    return pair_quantile(matrix, 0.5)


def pair_quantile(matrix: Tensor, level: float) -> Tensor:
    """Quantile over pairs of different examples, linearly between neighbours. NaN without a pair.

    At level 0.05 of cosines: how badly the worst twentieth of the pairs disagree; -1 at the extreme.

    Args:
        matrix: Symmetric, [B, B]; pairs that are NaN are left out.
        level: In [0, 1].
    """
    return quantile(pairs(matrix), level)


def share_negative(matrix: Tensor) -> Tensor:
    """Share of pairs below zero: 0 when no two examples conflict, 1/2 for white noise.

    Args:
        matrix: Symmetric, [B, B], such as `cosines`; pairs that are NaN are left out. Of a Gram itself, pairs with a
            zero gradient would count as no conflict.

    Returns:
        Scalar, dimensionless, in [0, 1]; NaN if no pair is left.
    """
    return _mean((pairs(matrix) < 0).double())


def same_class(labels: Tensor) -> Tensor:
    """Which pairs are of one class, [B, B] bool, for `pair_mean`; its negation are pairs of two classes.

    Args:
        labels: One class number for each example, [B].

    Raises:
        ValueError: Labels that are no vector.
    """
    if labels.ndim != 1:
        raise ValueError(f"labels are one class number for each example, [B], got {list(labels.shape)}.")
    return labels[:, None] == labels[None, :]


def quantile(values: Tensor, level: float) -> Tensor:
    """Quantile of a vector, linearly between neighbours, of any length; NaN of none.

    `torch.quantile` refuses more than 16 million values, the pairs of 5800 examples.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"A quantile's level lies in [0, 1], got {level}.")
    if len(values) == 0:
        return values.new_full((), torch.nan)
    place = level * (len(values) - 1)
    below, above = int(place), min(int(place) + 1, len(values) - 1)
    ordered = values.sort().values
    return torch.lerp(ordered[below], ordered[above], place - below)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.new_full((), torch.nan)
