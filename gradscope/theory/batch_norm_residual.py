"""Which laws does a residual net with batch normalisation follow with depth, published and exact?

Block: x <- x + beta W relu(BN(x)), He-scaled W, statistics frozen, at initialisation, infinite width, inputs
whose pairwise kernel entries are all equal. The stream's centred variance grows by beta^2 c per block, with
c = 2 Var(relu(z)) = 1 - 1/pi; the branch is divided by it. Depths may be arrays; results have their shape.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number

GROWTH = 1 - 1 / math.pi
_LONGEST_PRODUCT = 100_000


def residual_batch_norm(
    depth: ArrayLike, beta: float, c: float = GROWTH, input_variance: float = 1.0
) -> NDArray[np.float64]:
    """R = Cov / Var of a residual net with frozen batch normalisation. Derived, exact.

    With a = input_variance / beta^2, Var = prod_{l=1..L} (1 + 1 / (a + c (l-1))) and
    Cov = prod_{l=1..L} (1 + 1 / (2 (a + c (l-1)))), so that
    R = Gamma(L + (a+1/2)/c) Gamma((a+1)/c) / [Gamma((a+1/2)/c) Gamma(L + (a+1)/c)] ~ L^(-1/(2c)):
    exponent 0.733 rather than the published 1/2. The products are taken up to 100 000 blocks, the
    Gamma functions beyond.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        beta: Factor of the branch, >= 0; 0 gives 1.
        c: Growth of the stream's variance per block over beta^2, >= 0. 1 is the paper's bookkeeping, which
            reproduces Theorem 3.
        input_variance: Centred variance of the stream at the first block, > 0.

    Returns:
        Correlation in (0, 1], shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here; setting and Theorem 3: Balduzzi et al. (2017), arXiv:1702.08591.
    """
    layers, square, c, start = _checked(depth, beta, c, input_variance)
    covariance = _log_product(layers, square / 2, square, c, start)
    return np.exp(covariance - _log_product(layers, square, square, c, start))


def residual_batch_norm_variance(
    depth: ArrayLike, beta: float, c: float = GROWTH, input_variance: float = 1.0
) -> NDArray[np.float64]:
    """Gradient variance Var of `residual_batch_norm`. Derived; beta^2 L + 1 at c = 1, input variance 1.

    The paper prints beta^2 (L - 1) + 1 (Theorem 3): its L counts one block more.

    Args:
        depth, beta, c, input_variance: As in `residual_batch_norm`.

    Returns:
        Variance relative to the output's, >= 1, shape of `depth`; grows like L^(1/c).

    Raises:
        ValueError: an argument is outside its range.
        FloatingPointError: the variance exceeds float64 (possible only for c near 0).

    Source:
        Derived here; Balduzzi et al. (2017), arXiv:1702.08591, Theorem 3.
    """
    layers, square, c, start = _checked(depth, beta, c, input_variance)
    return _exponential(_log_product(layers, square, square, c, start))


def residual_batch_norm_covariance(
    depth: ArrayLike, beta: float, c: float = GROWTH, input_variance: float = 1.0
) -> NDArray[np.float64]:
    """Gradient covariance Cov of `residual_batch_norm`. Derived; published (Theorem 3) as ~ beta sqrt(L).

    Args:
        depth, beta, c, input_variance: As in `residual_batch_norm`.

    Returns:
        Covariance of two inputs' gradients relative to the output's variance, >= 1, shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.
        FloatingPointError: the covariance exceeds float64 (possible only for c near 0).

    Source:
        Derived here; Balduzzi et al. (2017), arXiv:1702.08591, Theorem 3.
    """
    layers, square, c, start = _checked(depth, beta, c, input_variance)
    return _exponential(_log_product(layers, square / 2, square, c, start))


def residual_batch_norm_paper(depth: ArrayLike, beta: float) -> NDArray[np.float64]:
    """R ~ 1 / (beta sqrt(L)), Theorem 3 as published: an asymptote, not a correlation.

    Exceeds 1 while beta sqrt(L) < 1 (1.41 at beta = 0.1, L = 50), and its exponent 1/2 belongs to c = 1.
    Draw `residual_batch_norm` beside it.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        beta: Factor of the branch, > 0.

    Returns:
        Dimensionless, > 0 and not bounded by 1, shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Theorem 3.
    """
    return 1 / (real_number(beta, "beta", above=0) * np.sqrt(depths(depth)))


def residual_batch_norm_variance_paper(depth: ArrayLike, beta: float) -> NDArray[np.float64]:
    """C(i) = beta^2 (L - 1) + 1, Theorem 3 as published; it counts L - 1 of the L blocks.

    Exact is `residual_batch_norm_variance`, which grows like L^1.467 rather than L.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        beta: Factor of the branch, >= 0.

    Returns:
        Variance relative to the output's, >= 1, shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Theorem 3.
    """
    return np.asarray(real_number(beta, "beta", least=0) ** 2 * (depths(depth) - 1) + 1, dtype=np.float64)


def residual_batch_norm_covariance_paper(depth: ArrayLike, beta: float) -> NDArray[np.float64]:
    """C(i, j) ~ beta sqrt(L), Theorem 3 as published: an asymptote, below the 1 it starts from while beta sqrt(L) < 1.

    Exact is `residual_batch_norm_covariance`, which is at least 1 and grows like L^0.733.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        beta: Factor of the branch, >= 0.

    Returns:
        Covariance relative to the output's variance, >= 0, shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Theorem 3.
    """
    return real_number(beta, "beta", least=0) * np.sqrt(depths(depth))


def residual_batch_norm_bounded(depth: ArrayLike, beta: float) -> NDArray[np.float64]:
    """R = (1 + beta^2 L)^(-1/2): the paper's asymptote made a correlation. Derived, approximate.

    Against the product with c = 1 it is 11 % low at beta = 1, L = 50 and 0.04 % off at beta = 0.1.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        beta: Factor of the branch, >= 0.

    Returns:
        Correlation in (0, 1], shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived here from Theorem 3 of Balduzzi et al. (2017), arXiv:1702.08591.
    """
    growth = real_number(beta, "beta", least=0) ** 2 * depths(depth)
    return np.asarray(1 / np.sqrt(1 + growth), dtype=np.float64)


def _checked(
    depth: ArrayLike, beta: float, c: float, input_variance: float
) -> tuple[NDArray[np.int64], float, float, float]:
    return (
        depths(depth),
        real_number(beta, "beta", least=0) ** 2,
        real_number(c, "c", least=0),
        real_number(input_variance, "input_variance", above=0),
    )


def _log_product(
    layers: NDArray[np.int64], gain: float, square: float, c: float, start: float
) -> NDArray[np.float64]:
    """log prod_{l=1..L} (1 + gain / (start + square c (l-1))) for every L in `layers`."""
    growth = square * c
    if layers.max() <= _LONGEST_PRODUCT:
        stream = start + growth * np.arange(layers.max())
        return np.asarray(np.cumsum(np.log1p(gain / stream))[layers - 1], dtype=np.float64)
    if growth == 0:
        return np.asarray(layers * math.log1p(gain / start), dtype=np.float64)
    below, above = start / growth, (start + gain) / growth
    ratio = [_log_gamma_step(above, int(n)) - _log_gamma_step(below, int(n)) for n in layers.flat]
    return np.reshape(ratio, layers.shape)


def _log_gamma_step(x: float, n: int) -> float:
    return math.lgamma(x + n) - math.lgamma(x)


def _exponential(logarithm: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="raise"):
        try:
            return np.exp(logarithm)
        except FloatingPointError:
            raise FloatingPointError(
                f"The moment exceeds float64 (logarithm {np.max(logarithm):.4g}). "
                "Use the correlation, fewer blocks, or a larger c."
            ) from None
