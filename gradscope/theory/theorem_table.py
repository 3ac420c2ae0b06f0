"""What the shattered-gradients theorems say at a few depths, and what is exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths as checked_depths
from gradscope.theory.batch_norm_residual import (
    residual_batch_norm,
    residual_batch_norm_covariance,
    residual_batch_norm_covariance_paper,
    residual_batch_norm_paper,
    residual_batch_norm_variance,
    residual_batch_norm_variance_paper,
)
from gradscope.theory.highway_uncentred import highway_uncentred
from gradscope.theory.mean_field import plain_correlation, residual_correlation
from gradscope.theory.shattering import highway, plain_centred, residual_centred

if TYPE_CHECKING:
    import pandas as pd

Rows = Iterator[tuple[str, str, str, NDArray[np.float64]]]
_GROWTH = np.log(np.pi / (np.pi - 1))


def theorem_table(
    depths: ArrayLike = (1, 2, 4, 10, 24, 50, 100), betas: Sequence[float] = (1.0, 0.3, 0.1)
) -> pd.DataFrame:
    """Theorems 1 to 3 and Corollary 1 as published, beside the exact values, centred and uncentred.

    Args:
        depths: Numbers L of layers or blocks, >= 1, shape [n].
        betas: Branch factors of the residual nets with batch normalisation, > 0.

    Returns:
        One row for each law, kind, quantity and depth, with columns
        `law`: the network, such as "plain, uncentred", for orthogonal inputs at initialisation;
        `kind`: "published" (the paper's statement, applied to this network) or "exact" (infinite width);
        `quantity`: `correlation_R` (0 where below 1e-308); `log_gradient_variance` and `log_gradient_covariance`,
        natural logarithms relative to the output's variance; and, published only, Theorem 3's `correlation_R_asymptote`
        1 / (beta sqrt L) and `gradient_covariance_asymptote` beta sqrt L, neither bounded as what it stands for. Its
        published `correlation_R` is the product that the paper's bookkeeping gives, c = 1;
        `depth`; `value`; `unit`, "1" throughout, dimensionless.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> table = theorem_table([1, 10, 50]).query("quantity == 'correlation_R'")
        >>> table.pivot(index=["law", "kind"], columns="depth", values="value")

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591; exact values: the functions of this room of the same names.
    """
    import pandas as pd

    layers = np.atleast_1d(checked_depths(depths))
    if layers.ndim != 1:
        raise ValueError(f"depths is a list of whole numbers, got shape {list(layers.shape)}.")
    rows = [
        {
            "law": law,
            "kind": kind,
            "quantity": quantity,
            "unit": "1",
            "depth": int(depth),
            "value": float(value),
        }
        for part in (_plain(layers), _residual(layers), _highway(layers), _batch_norm(layers, betas))
        for law, kind, quantity, values in part
        for depth, value in zip(layers, values, strict=True)
    ]
    return pd.DataFrame(rows)


def _plain(layers: NDArray[np.int64]) -> Rows:
    uncentred = plain_correlation(int(layers.max())).gradient_correlation[layers - 1]
    half, none = -layers * np.log(2.0), np.zeros(len(layers))
    for law, exact, logarithm in (
        ("plain, mean-centred", plain_centred(layers), half),
        ("plain, uncentred", uncentred, np.log(uncentred)),
    ):
        yield from _moments(law, "published", plain_centred(layers), none, half)
        yield from _moments(law, "exact", exact, none, logarithm)
    growth = layers * _GROWTH
    yield from _moments("plain, batch norm", "published", plain_centred(layers), none, half)
    yield from _moments("plain, batch norm", "exact", plain_centred(layers), growth, growth + half)


def _residual(layers: NDArray[np.int64]) -> Rows:
    uncentred = residual_correlation(int(layers.max())).gradient_correlation[layers - 1]
    variance, covariance = layers * np.log(2.0), layers * np.log(1.5)
    for law, exact, logarithm in (
        ("residual, mean-centred", residual_centred(layers), covariance),
        ("residual, uncentred", uncentred, variance + np.log(uncentred)),
    ):
        yield from _moments(law, "published", residual_centred(layers), variance, covariance)
        yield from _moments(law, "exact", exact, variance, logarithm)


def _highway(layers: NDArray[np.int64]) -> Rows:
    published, none = highway(layers), np.zeros(len(layers))
    for law, exact in (
        ("highway, mean-centred", published),
        ("highway, uncentred", highway_uncentred(layers)),
    ):
        yield from _moments(law, "published", published, none, np.log(published))
        yield from _moments(law, "exact", exact, none, np.log(exact))


def _batch_norm(layers: NDArray[np.int64], betas: Sequence[float]) -> Rows:
    for beta in betas:
        law = f"residual, batch norm, beta {beta:g}"
        yield law, "published", "correlation_R", residual_batch_norm(layers, beta, c=1.0)
        yield law, "published", "correlation_R_asymptote", residual_batch_norm_paper(layers, beta)
        variance = residual_batch_norm_variance_paper(layers, beta)
        yield law, "published", "log_gradient_variance", np.log(variance)
        covariance = residual_batch_norm_covariance_paper(layers, beta)
        yield law, "published", "gradient_covariance_asymptote", covariance
        yield from _moments(
            law,
            "exact",
            residual_batch_norm(layers, beta),
            np.log(residual_batch_norm_variance(layers, beta)),
            np.log(residual_batch_norm_covariance(layers, beta)),
        )


def _moments(
    law: str,
    kind: str,
    correlation: NDArray[np.float64],
    log_variance: NDArray[np.float64],
    log_covariance: NDArray[np.float64],
) -> Rows:
    yield law, kind, "correlation_R", correlation
    yield law, kind, "log_gradient_variance", log_variance
    yield law, kind, "log_gradient_covariance", log_covariance
