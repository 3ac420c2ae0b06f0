"""The simple noise scale: of how many examples is a batch before its gradient is more signal than noise?"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gradscope.measures.gram_sums import GramSums, as_gram, gram_sums


class NoiseScale(NamedTuple):
    """Unbiased estimates of the two parts of a noise scale, and their ratio.

    Attributes:
        squared_gradient: |G|^2 of the expected gradient G, in units of a squared gradient. Its estimate may be zero
            or negative where the noise is larger than the signal.
        covariance_trace: tr(Sigma) of the examples' gradients, in the same unit, at least 0.
        simple: tr(Sigma) / |G|^2 in examples; NaN, rather than a clipped number, where the estimate of |G|^2 is not
            positive.
    """

    squared_gradient: Tensor
    covariance_trace: Tensor
    simple: Tensor


def noise_scale(gram: Tensor) -> NoiseScale:
    """Simple noise scale from the gradients of one batch: tr(Sigma) / |G|^2.

    Near 0 when all gradients are the same; about the batch size at which doubling the batch stops paying. With the
    mean square t = mean K_ii and the square of the mean a = |mean g|^2, the parts (B a - t)/(B - 1) and
    (t - a) B/(B - 1) are unbiased; their ratio is not. Over several batches average the parts, then divide: see
    `averaged_noise_scale`.

    Args:
        gram: [B, B] with B >= 2, of gradients of each example's own loss. Gradients of a mean loss are smaller by B,
            and both parts by B^2.

    Raises:
        ValueError: Not a Gram matrix.

    Source:
        McCandlish et al. (2018), arXiv:1812.06162, equation 2.9 and appendix A.
    """
    return noise_scale_of_sums(gram_sums(gram))


def noise_scale_of_sums(sums: GramSums) -> NoiseScale:
    """`noise_scale` from the sums alone, in their shape."""
    n = sums.examples
    mean_square, square_of_mean = sums.trace / n, sums.total / n**2
    squared_gradient = (n * square_of_mean - mean_square) / (n - 1)
    covariance_trace = (mean_square - square_of_mean) * n / (n - 1)
    return NoiseScale(
        squared_gradient * sums.scale,
        covariance_trace * sums.scale,
        _ratio(covariance_trace, squared_gradient),
    )


def simple_noise_scale_of_R(correlation: float) -> float:
    """The simple noise scale of one batch as a function of R: 1/R - 1, at least 0, infinite where R is not positive.

    For |G|^2 is estimated by the mean of K over pairs, and tr(Sigma) by the mean of its diagonal less that.
    """
    return max(1 / correlation - 1, 0.0) if correlation > 0 else math.inf


def two_batch_noise_scale(small: Tensor, large: Tensor, small_size: int, large_size: int) -> NoiseScale:
    """Simple noise scale from the gradient norms of batches of two sizes, as data-parallel training has them.

    |G_b|^2 of a batch of b examples is |G|^2 + tr(Sigma)/b in expectation, so two sizes give two equations. The parts
    of every repeat are averaged before they are divided.

    Args:
        small: Squared norms of mean gradients over batches of `small_size`, one a repeat, [R].
        large: The same of `large_size`, [R].
        small_size: Examples in a small batch, at least 1.
        large_size: Examples in a large batch, more than `small_size`.

    Returns:
        Scalars, float64. `covariance_trace` may be negative here, for the two norms are independent.

    Raises:
        ValueError: Norms that are no two vectors of one length, or sizes out of order.

    Source:
        McCandlish et al. (2018), arXiv:1812.06162, appendix A.1.
    """
    if small.ndim != 1 or small.shape != large.shape or len(small) == 0:
        raise ValueError(
            "two_batch_noise_scale needs one squared norm of each size a repeat, two vectors [R], got "
            f"{list(small.shape)} and {list(large.shape)}."
        )
    if not 1 <= small_size < large_size:
        raise ValueError(
            f"two_batch_noise_scale needs two sizes, 1 <= small < large, got {small_size} and {large_size}."
        )
    little, much = small.double().mean(), large.double().mean()
    squared_gradient = (large_size * much - small_size * little) / (large_size - small_size)
    covariance_trace = (little - much) / (1 / small_size - 1 / large_size)
    return NoiseScale(squared_gradient, covariance_trace, _ratio(covariance_trace, squared_gradient))


def averaged_noise_scale(parts: list[NoiseScale]) -> NoiseScale:
    """Noise scale of several batches: their parts averaged, then divided.

    The mean of the ratios would be biased without bound, since single estimates of |G|^2 come near zero.

    Raises:
        ValueError: No parts.

    Source:
        McCandlish et al. (2018), arXiv:1812.06162, appendix A.1.
    """
    if not parts:
        raise ValueError("averaged_noise_scale needs the noise scale of one batch or more, got none.")
    squared_gradient = torch.stack([part.squared_gradient for part in parts]).mean(dim=0)
    covariance_trace = torch.stack([part.covariance_trace for part in parts]).mean(dim=0)
    return NoiseScale(squared_gradient, covariance_trace, _ratio(covariance_trace, squared_gradient))


def subset_squares(gram: Tensor, size: int, repeats: int, generator: torch.Generator) -> Tensor:
    """Squared norms of the mean gradient over random subsets of a batch, for `two_batch_noise_scale`.

    Args:
        gram: [B, B] with B >= 2.
        size: Examples of a subset, drawn without repetition, 1..B.
        repeats: How many subsets.
        generator: On the CPU.

    Returns:
        [repeats], in units of a squared gradient; float64.

    Raises:
        ValueError: Not a Gram matrix, a size out of range, or no repeats.
    """
    gram = as_gram("subset_squares", gram)
    if not 1 <= size <= len(gram) or repeats < 1:
        raise ValueError(
            f"subset_squares draws 1 .. {len(gram)} of {len(gram)} examples once or more, got size {size} and "
            f"{repeats} repeats."
        )
    squares = []
    for _ in range(repeats):
        chosen = torch.randperm(len(gram), generator=generator)[:size].to(gram.device)
        squares.append(gram[chosen][:, chosen].sum() / size**2)
    return torch.stack(squares)


def _ratio(covariance_trace: Tensor, squared_gradient: Tensor) -> Tensor:
    ratio = covariance_trace / squared_gradient
    return torch.where(squared_gradient > 0, ratio, torch.full_like(ratio, math.nan))
