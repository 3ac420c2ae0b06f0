"""Why R decays as the inverse cube of depth where nothing is centred, and how to read an exponent off a curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number


def asymptotic_correlation_gap(
    depth: ArrayLike, alpha: float = 0.0, beta: float = 1.0
) -> NDArray[np.float64]:
    """1 - rho_l -> (9 pi^2 / 2) ((alpha^2 + beta^2) / beta^2)^2 / l^2 of x <- alpha x + beta W relu(x), uncentred.

    From k1(1 - e) = 1 - e + (2 sqrt 2 / (3 pi)) e^(3/2) + ...: the gap's steps shrink with it. 44.4 / l^2 for a plain
    net (alpha = 0) and four times that at alpha = beta = 1, whatever the first correlation.

    Args:
        depth: Layer l >= 1, any shape. The first correction is of relative order log(l) / l: the
            asymptote is 22 % high at 100 layers and 3 % at 1000.
        alpha: Factor of the skip; 0 is a plain net.
        beta: Factor of the branch, > 0.

    Returns:
        Gap between 1 and the correlation of two inputs' activations, > 0, shape of `depth`; meaningless (above 2)
        at the first few layers.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Plain: Hayou et al. (2019), arXiv:1902.06853; residual derived.
    """
    branch = real_number(beta, "beta", above=0) ** 2
    step = branch / (real_number(alpha, "alpha") ** 2 + branch)
    return 4.5 * np.pi**2 / (step * depths(depth).astype(np.float64)) ** 2


def asymptotic_layer_factor(depth: ArrayLike) -> NDArray[np.float64]:
    """1 - 3 / l: what layer l multiplies R by deep in an uncentred net, plain or residual of any beta > 0.

    sqrt(2 (1 - rho_l)) / pi = 3 / (s l), s = beta^2 / (alpha^2 + beta^2), times the share s of the gradient that
    goes through the branch. Hence R_L ~ L^-3: skips change the constant, not the exponent.

    Args:
        depth: Layer l >= 1, any shape. An asymptote: negative below l = 3.

    Returns:
        Factor below 1, shape of `depth`.

    Raises:
        ValueError: a depth is no whole number of at least 1.

    Source:
        Derived.
    """
    return 1 - 3 / depths(depth)


def local_exponent(depth: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Slope of log value against log depth between neighbouring depths: d for values ~ depth^d.

    -3 far down an uncentred net, -0.733 for residual nets with batch normalisation; it keeps falling, as
    -0.69 L, for 2^-L.

    Args:
        depth: Layers, rising, shape [n], n >= 2.
        values: What a law or a measurement says there, > 0, shape [n].

    Returns:
        Shape [n - 1]; entry i belongs between depth[i] and depth[i + 1].

    Raises:
        ValueError: shapes differ, depths do not rise, or a value is not positive and finite, so that it has no
            logarithm (a law that has underflowed to 0: take fewer layers).

    Source:
        The definition of a power law.
    """
    layers, law = depths(depth), np.asarray(values, dtype=np.float64)
    if layers.ndim != 1 or layers.shape != law.shape or len(layers) < 2 or (np.diff(layers) <= 0).any():
        raise ValueError(
            "local_exponent takes at least two rising depths and a value at each, got shapes "
            f"{list(layers.shape)} and {list(law.shape)}. Average over repeats and sort by depth first."
        )
    if not np.isfinite(law).all() or law.min() <= 0:
        raise ValueError("local_exponent needs positive, finite values: others have no logarithm.")
    return np.diff(np.log(law)) / np.diff(np.log(layers))
