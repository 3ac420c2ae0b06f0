"""How does one ReLU layer change the correlation of two inputs? (arc-cosine kernels)"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDING = 1e-9


def k0(r: ArrayLike) -> NDArray[np.float64]:
    """Correlation left to a gradient by one ReLU whose two pre-activations have correlation r.

    2 E[1(u > 0) 1(v > 0)] = 1 - acos(r) / pi for standard Gaussians u, v: twice the probability
    that a unit is active on both inputs. It is the derivative of `k1`.

    Args:
        r: Correlation of the pre-activations, in [-1, 1], any shape. Excess by rounding (1e-9) is clipped.

    Returns:
        Shape of `r`, dimensionless, in [0, 1]: 0 at r = -1, 1/2 at r = 0, 1 at r = 1.

    Raises:
        ValueError: some entry is NaN or outside [-1, 1].

    Source:
        Cho & Saul, Kernel Methods for Deep Learning, NIPS 2009, order 0, scaled by He's factor 2.
    """
    return 1 - np.arccos(_correlations(r)) / np.pi


def k1(r: ArrayLike) -> NDArray[np.float64]:
    """Correlation (uncentred) of a unit's ReLU outputs when its pre-activations have correlation r.

    2 E[relu(u) relu(v)] = (sqrt(1 - r^2) + r (pi - acos r)) / pi for standard Gaussians u, v.

    Args:
        r: Correlation of the pre-activations, in [-1, 1], any shape. Excess by rounding (1e-9) is clipped.

    Returns:
        Shape of `r`, dimensionless, in [0, 1]: 0 at r = -1, 1/pi at r = 0, 1 at r = 1; never below r.

    Raises:
        ValueError: some entry is NaN or outside [-1, 1].

    Source:
        Cho & Saul, Kernel Methods for Deep Learning, NIPS 2009, order 1, scaled by He's factor 2.
    """
    clipped = _correlations(r)
    return (np.sqrt((1 - clipped) * (1 + clipped)) + clipped * (np.pi - np.arccos(clipped))) / np.pi


def coactivation(r: ArrayLike) -> NDArray[np.float64]:
    """Fraction of ReLU units active on both of two inputs whose pre-activations have correlation r.

    P(u > 0, v > 0) = (pi - acos r) / (2 pi) = k0(r) / 2: the quarter of the theorems at r = 0.

    Args:
        r: Correlation of the pre-activations, in [-1, 1], any shape.

    Returns:
        Shape of `r`, a fraction in [0, 1/2].

    Raises:
        ValueError: some entry is NaN or outside [-1, 1].

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, section 3, for the quantity; the value is Sheppard's (1899).
    """
    return k0(r) / 2


def _correlations(r: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(r, dtype=np.float64)
    if not (np.abs(array) <= 1 + _ROUNDING).all():
        raise ValueError(f"An arc-cosine kernel takes correlations, in [-1, 1], got {r!r}.")
    return np.clip(array, -1.0, 1.0)
