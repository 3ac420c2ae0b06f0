"""Condition numbers and extreme eigenvalues of a spectrum known in closed form, to be drawn over measured ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import depths, real_number

if TYPE_CHECKING:
    import pandas as pd

_PERCENTILES = {"percentile_10": 10.0, "extreme_ratio": 0.0}
_EIGENVALUE = "loss per squared parameter"


def percentile_condition_number(spectrum: ArrayLike, percentile: float = 10.0) -> float:
    """Largest over a percentile of the absolute eigenvalues; percentile 0 gives |lambda|_max / |lambda|_min.

    The percentile is numpy.percentile's, linear between order statistics, so that the value is the one that
    `condition_number(operator, "percentile_10")` (or "extreme_ratio", for 0) has of a dense Hessian.

    Args:
        spectrum: All eigenvalues, multiplicities included, in any order, shape [P].
        percentile: In [0, 100]. Li et al. take 0 in theory and 10 in experiments.

    Returns:
        In [1, inf]. Infinite where the percentile is zero to rounding, at most (10 + P) eps |lambda|_max in float64.

    Raises:
        ValueError: the spectrum is no finite vector, or is zero throughout and has no ratio; the percentile is outside
            its range.

    Source:
        Li et al. (2016), arXiv:1611.01186.
    """
    sizes = np.abs(_spectrum(spectrum))
    share = real_number(percentile, "percentile", least=0)
    if share > 100:
        raise ValueError(f"percentile must be in [0, 100], got {share}.")
    largest = float(sizes.max())
    if largest == 0:
        raise ValueError("All eigenvalues are zero, and 0/0 is no condition number.")
    small = float(np.percentile(sizes, share))
    if small <= (10 + len(sizes)) * np.finfo(np.float64).eps * largest:
        return math.inf
    return largest / small


def conditioning_overlay(
    spectra: Mapping[int, ArrayLike], law: str, *, definition: str = "percentile_10"
) -> pd.DataFrame:
    """What closed-form spectra predict at each depth, as `figures.condition_against_depth` draws it.

    Args:
        spectra: Number of layers -> all eigenvalues there.
        law: What the legend calls it.
        definition: Of the condition number, "percentile_10" or "extreme_ratio".

    Returns:
        One row for each number of layers and quantity, with columns `layers`, `quantity`, `definition`, `unit`,
        `value`, `law`, `status`, `reason`. Quantities: `condition_number`; `lambda_max`, `lambda_min`;
        `share_negative` (below -1e-12 of the largest absolute eigenvalue). NaN and "undefined" for the ratio of a
        spectrum of zeros. Add what tells networks apart by `.assign(network=...)`.

    Raises:
        ValueError: no spectrum, one that is no finite vector, a number of layers below 1, or an unknown definition.

    Example:
        >>> spectra = {layers: two_shortcut_spectrum(G, layers // 2, 10) for layers in (2, 4, 8)}
        >>> conditioning_overlay(spectra, "singular values of G").assign(network="2-shortcut, zero")
    """
    import pandas as pd

    if not spectra:
        raise ValueError("conditioning_overlay needs a spectrum for one number of layers or more.")
    if definition not in _PERCENTILES:
        raise ValueError(f"definition is one of {', '.join(_PERCENTILES)}, got {definition!r}.")
    rows: list[tuple[int, str, str | None, str, float, str]] = []
    for count, given in spectra.items():
        layers, values = int(depths(count)), np.sort(_spectrum(given))
        known = bool(values.any())
        ratio = percentile_condition_number(values, _PERCENTILES[definition]) if known else math.nan
        status = "ok" if known else "undefined"
        negative = float(np.mean(values < -1e-12 * np.abs(values).max()))
        rows += [
            (layers, "condition_number", definition, "1", ratio, status),
            (layers, "lambda_max", None, _EIGENVALUE, float(values[-1]), "ok"),
            (layers, "lambda_min", None, _EIGENVALUE, float(values[0]), "ok"),
            (layers, "share_negative", None, "1", negative, "ok"),
        ]
    columns = ["layers", "quantity", "definition", "unit", "value", "status"]
    frame = pd.DataFrame(rows, columns=columns)
    reason = np.where(frame["status"] == "ok", "", "all eigenvalues are zero")
    return frame[columns[:-1]].assign(law=law, status=frame["status"], reason=reason)


def _spectrum(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"A spectrum is a finite vector of all eigenvalues, [P], got shape {list(array.shape)}."
        )
    return array
