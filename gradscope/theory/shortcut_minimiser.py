"""How far from the zero point is a minimiser of an n-shortcut linear net?

If blocks can fit the target map R exactly and near zero, it suffices to look at the zero point as depth grows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, square_matrix, whole_number


def minimiser_near_zero(R: ArrayLike, blocks: int, layers_per_block: int) -> list[NDArray[np.float64]]:
    """Weights of one block, the same for all, that make the net R: W^n..W^1 = R^{1/L} - I with balanced factors.

    Of U diag(p) V^T = R^{1/L} - I every factor takes p^{1/n}. All blocks alike, (I + W^n..W^1)^L = R. Where the
    targets are y = R x without noise this is a minimum, of loss 0; with noise R is the least-squares map
    Sigma_YX Sigma_XX^{-1}.

    Args:
        R: Target map, shape [d, d], with a principal L-th root: invertible and no eigenvalue on the negative real axis.
        blocks: Number L of blocks, >= 1.
        layers_per_block: n, >= 1; inner widths are d.

    Returns:
        W^1, .., W^n, input side first, each [d, d].

    Raises:
        ValueError: det R <= 0, which no net near zero can reach, for all of its blocks have positive determinants;
            or an eigenvalue of R is real and negative, so that the principal root does not exist (pairs of such
            eigenvalues need blocks that differ).

    Source:
        Li et al. (2016), arXiv:1611.01186, for the question; det R > 0 is the condition of Hardt & Ma (2016),
        arXiv:1611.04231; the factors are derived here.
    """
    from scipy.linalg import expm

    count, n = whole_number(blocks, "blocks", 1), whole_number(layers_per_block, "layers_per_block", 1)
    step = expm(_principal_logarithm(R) / count) - np.eye(len(np.asarray(R)))
    U, p, Vt = np.linalg.svd(step)
    root = np.diag(p ** (1 / n))
    factors = [root] * n
    factors[0] = factors[0] @ Vt
    factors[-1] = U @ factors[-1]
    return factors


def minimiser_norm(R: ArrayLike, blocks: ArrayLike, layers_per_block: int) -> NDArray[np.float64]:
    """|R^{1/L} - I|^{1/n}, the spectral norm of every weight of `minimiser_near_zero`.

    It falls as (|log R| / L)^{1/n}: times L^{1/n} it settles at `minimiser_norm_limit`, with relative error O(1/L).

    Args:
        R: Target map, shape [d, d].
        blocks: Numbers L of blocks, >= 1, any shape.
        layers_per_block: n, >= 1.

    Returns:
        Shape of `blocks`, >= 0.

    Raises:
        ValueError: as `minimiser_near_zero`.

    Source:
        Derived here for the claim of Li et al. (2016), arXiv:1611.01186.
    """
    from scipy.linalg import expm

    counts, n = depths(blocks), whole_number(layers_per_block, "layers_per_block", 1)
    logarithm = _principal_logarithm(R)
    identity = np.eye(len(logarithm))
    norms = [np.linalg.norm(expm(logarithm / count) - identity, 2) for count in counts.ravel().tolist()]
    return (np.array(norms) ** (1 / n)).reshape(counts.shape)


def minimiser_norm_limit(R: ArrayLike, layers_per_block: int) -> float:
    """|log R|^{1/n}: what L^{1/n} times the weights' norm settles at as the number L of blocks grows.

    Args:
        R: Target map, shape [d, d].
        layers_per_block: n, >= 1.

    Returns:
        >= 0; 0 for the identity, which is fitted at zero.

    Raises:
        ValueError: as `minimiser_near_zero`.

    Source:
        Derived here for the claim of Li et al. (2016), arXiv:1611.01186.
    """
    n = whole_number(layers_per_block, "layers_per_block", 1)
    return float(np.linalg.norm(_principal_logarithm(R), 2) ** (1 / n))


def _principal_logarithm(R: ArrayLike) -> NDArray[np.float64]:
    from scipy.linalg import logm

    target = square_matrix(R, "R")
    sign = np.linalg.slogdet(target)[0]
    if sign <= 0:
        raise ValueError(
            f"R needs det R > 0, got a determinant that is {'zero' if sign == 0 else 'negative'}: blocks near the "
            "identity have positive determinants, and so has their product. Change the sign of one output."
        )
    eigenvalues = np.linalg.eigvals(target)
    real = np.abs(eigenvalues.imag) <= 1e-12 * np.abs(eigenvalues)
    if (eigenvalues.real[real] <= 0).any():
        raise ValueError(
            f"R has the real eigenvalue {eigenvalues.real[real].min():.4g} <= 0 and hence no principal root; "
            "blocks that are all alike cannot make it near zero. Blocks that differ can, since det R > 0."
        )
    return np.asarray(logm(target).real, dtype=np.float64)
