"""Gradient confusion: how much can two examples' gradients work against each other?"""

import torch
from torch import Tensor

from gradscope.measures.gram_cosines import cosines, pairs
from gradscope.measures.gram_sums import as_gram


def gradient_confusion(gram: Tensor) -> Tensor:
    """Gradient confusion: the smallest eta >= 0 with <g_i, g_j> >= -eta for all pairs of different examples.

    0 when no two examples conflict; large when a step for one example undoes what another needs. It bears the
    gradients' scale squared, so it compares batches of one layer, not layers: see `cosine_confusion`. The largest
    conflict among pairs, hence it grows with B.

    Args:
        gram: [B, B] with B >= 2.

    Returns:
        Scalar in units of a squared gradient, at least 0; float64. NaN if an entry is not finite.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Sankararaman et al. (2020), arXiv:1904.06963, Definition 2.1.
    """
    gram = as_gram("gradient_confusion", gram)
    if not bool(torch.isfinite(gram).all()):
        return gram.new_full((), torch.nan)
    return (-pairs(gram).min()).clamp(min=0)


def cosine_confusion(gram: Tensor) -> Tensor:
    """Largest conflict between the directions of two examples' gradients: max(0, -min of the cosines).

    0 when no two examples conflict, 1 when some two are opposite. Free of scale, and another quantity than
    `gradient_confusion`: the pair with the most negative cosine need not be that of the most negative product.

    Args:
        gram: [B, B] with B >= 2.

    Returns:
        Scalar, dimensionless, in [0, 1] up to rounding; float64. Zero gradients are left out; NaN without a pair of
        others.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        Sankararaman et al. (2020), arXiv:1904.06963, section 8, which draws the least cosine.
    """
    values = pairs(cosines(gram))
    return (-values.min()).clamp(min=0) if len(values) else values.new_full((), torch.nan)
