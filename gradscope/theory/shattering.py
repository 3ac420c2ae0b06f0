"""Which laws does the gradient correlation follow with depth, published and exact?

All laws are for initialisation, infinite width, and activations that stay centred (mean subtraction or
frozen batch normalisation), so that two inputs co-activate a quarter of the units. R, the gradient
correlation, is Definition 1 of arXiv:1702.08591. *Published* marks the paper's statements, *derived* ours.
Depths may be arrays; results have their shape. Centring a batch of B inputs leaves them correlated by -1/(B-1) rather
than 0; `batch` takes this into account, exactly for inputs that are alike to each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number, whole_number
from gradscope.theory.arc_cosine import k0


def plain_centred(depth: ArrayLike, batch: int | None = None) -> NDArray[np.float64]:
    """R = 2^-L of a plain centred ReLU net; the gradient variance is 1. Published (Theorem 1).

    Holds with mean-centring or frozen batch normalisation; without either the exact law is
    `mean_field.plain_correlation`. Mean-centring alone lets differences between the inputs' norms grow until one
    input dominates the batch mean (about layer 50 at width 256, layer 100 at infinite width for 128 inputs of 256
    dimensions: `batch_kernel_correlation`); batch normalisation prevents that for longer.

    Args:
        depth: Number L of layers, >= 1, any shape.
        batch: Number B >= 2 of inputs that are centred together; None is the theorem's limit of many.

    Returns:
        Correlation in [0, 1/2], shape of `depth`.

    Raises:
        ValueError: a depth is no whole number of at least 1, or a batch none of at least 2.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Theorem 1.
    """
    return np.asarray(_shared(batch) ** depths(depth), dtype=np.float64)


def plain_batch_norm_variance(depth: ArrayLike) -> NDArray[np.float64]:
    """Gradient variance (pi / (pi - 1))^L of a plain ReLU net with frozen batch normalisation. Derived.

    Args:
        depth: Number L of layers, >= 1, any shape.

    Returns:
        Variance relative to the output's, >= 1.467, shape of `depth`.

    Raises:
        ValueError: a depth is no whole number of at least 1.
        FloatingPointError: the variance exceeds float64 (beyond 1852 layers).

    Source:
        Also Yang et al. (2019), A mean field theory of batch normalization, arXiv:1902.08129.
    """
    return _power(np.pi / (np.pi - 1), depths(depth))


def residual_centred(
    depth: ArrayLike,
    alpha: float = 1.0,
    beta: float = 1.0,
    batch: int | None = None,
    *,
    branch_layers: int = 1,
) -> NDArray[np.float64]:
    """R = ((alpha^2 + beta^2 / 2) / (alpha^2 + beta^2))^L of x <- alpha x + beta W relu(x), centred.

    (3/4)^L at alpha = beta = 1: published (Theorem 2, batch normalisation off). The form with alpha and
    beta is derived. One He factor per branch is assumed; with two He matrices a branch (published code
    varies) R is (2/3)^L, which is beta = sqrt(2) here.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        alpha: Factor of the skip. The paper's Eq. 2, alpha (x + beta W relu(x)), has the R of skip factor 1.
        beta: Factor of the branch, >= 0.
        batch: Number B >= 2 of inputs that are centred together; None is the theorem's limit of many.
        branch_layers: Number k >= 1 of centred ReLUs, each with its W, in a branch, which leave 2^-k of the branch's
            part in common.

    Returns:
        Correlation in [0, 1], shape of `depth`.

    Raises:
        ValueError: an argument is outside its range, or alpha and beta are both zero.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Theorem 2.
    """
    skip, branch = _squares(alpha, beta)
    shared = _shared(batch) ** whole_number(branch_layers, "branch_layers", 1)
    return _power((skip + branch * shared) / (skip + branch), depths(depth))


def residual_centred_variance(depth: ArrayLike, alpha: float = 1.0, beta: float = 1.0) -> NDArray[np.float64]:
    """Gradient variance (alpha^2 + beta^2)^L of x <- alpha x + beta W relu(x). 2^L published (Theorem 2).

    Args:
        depth: Number L of blocks, >= 1, any shape.
        alpha: Factor of the skip.
        beta: Factor of the branch, >= 0.

    Returns:
        Variance relative to the output's, > 0, shape of `depth`.

    Raises:
        ValueError: an argument is outside its range, or alpha and beta are both zero.
        FloatingPointError: the variance leaves the range of float64 (2^L beyond 1023 blocks).

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Theorem 2.
    """
    skip, branch = _squares(alpha, beta)
    return _power(skip + branch, depths(depth))


def highway(
    depth: ArrayLike, gamma_1: float | None = None, gamma_2: float | None = None, batch: int | None = None
) -> NDArray[np.float64]:
    """R = (gamma_1^2 + gamma_2^2 / 2)^L of x <- gamma_1 x + gamma_2 W relu(x). Published (Corollary 1).

    Without gammas, those of the paper, gamma_1^2 = 1 - 1/L and gamma_2^2 = 1/L, which change with the
    depth of the whole net: R = (1 - 1/(2L))^L, rising to 1/sqrt(e) = 0.6065.

    Args:
        depth: Number L of blocks, >= 1, any shape.
        gamma_1: Factor of the skip; give both gammas or none.
        gamma_2: Factor of the branch. gamma_1^2 + gamma_2^2 = 1 to 1e-6, which keeps the variance at 1.
        batch: Number B >= 2 of inputs that are centred together; None is the theorem's limit of many.

    Returns:
        Correlation in [0, 1], shape of `depth`.

    Raises:
        ValueError: a depth is no whole number of at least 1, or the gammas are not as said.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, Corollary 1.
    """
    layers = depths(depth)
    if gamma_1 is None and gamma_2 is None:
        return np.asarray((1 - (1 - _shared(batch)) / layers) ** layers, dtype=np.float64)
    if gamma_1 is None or gamma_2 is None:
        raise ValueError("highway takes both gamma_1 and gamma_2, or neither for the paper's own.")
    skip, branch = real_number(gamma_1, "gamma_1") ** 2, real_number(gamma_2, "gamma_2") ** 2
    if abs(skip + branch - 1) > 1e-6:
        raise ValueError(
            f"A highway net keeps gamma_1^2 + gamma_2^2 = 1, got {skip + branch:.6g}. "
            "For other factors use residual_centred(depth, alpha, beta)."
        )
    return _power(skip + branch * _shared(batch), layers)


def _shared(batch: int | None) -> float:
    """Share of a gradient that two inputs have in common behind one ReLU."""
    return 0.5 if batch is None else float(k0(-1 / (whole_number(batch, "batch", 2) - 1)))


def _squares(alpha: float, beta: float) -> tuple[float, float]:
    skip, branch = real_number(alpha, "alpha") ** 2, real_number(beta, "beta", least=0) ** 2
    if skip + branch == 0:
        raise ValueError("A block with alpha = beta = 0 lets no gradient through. Set one of them.")
    return skip, branch


def _power(base: float, layers: NDArray[np.int64]) -> NDArray[np.float64]:
    logarithm = layers * np.log(base)
    if np.max(logarithm) > np.log(np.finfo(np.float64).max):
        raise FloatingPointError(
            f"{base:.6g}^{layers.max()} exceeds float64. Take the logarithm, or fewer layers."
        )
    return np.asarray(np.exp(logarithm), dtype=np.float64)
