"""What becomes of Corollary 1 where activations are not centred?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import correlation, depths
from gradscope.theory.arc_cosine import k1
from gradscope.theory.mean_field import residual_correlation


def highway_uncentred(depth: ArrayLike, rho: float = 0.0) -> NDArray[np.float64]:
    """R of x <- gamma_1 x + gamma_2 W relu(x), gamma_1^2 = 1 - 1/L, gamma_2^2 = 1/L, without centring.

    The recursion of `residual_correlation` with the gammas of Corollary 1, which change with the depth L of
    the whole net. rho drifts upwards along the net, so that R stays above the corollary's: from orthogonal inputs it
    tends to 0.634 rather than 0.6065.

    Args:
        depth: Number L of blocks of the whole net, >= 1, any shape.
        rho: Correlation of the two inputs, in [-1, 1].

    Returns:
        Correlation in [0, 1], shape of `depth`.

    Raises:
        ValueError: an argument is outside its range.

    Source:
        Derived; net: Balduzzi et al. (2017), arXiv:1702.08591, Corollary 1.
    """
    layers = depths(depth)
    ends = [
        residual_correlation(int(n), math.sqrt(1 - 1 / n), math.sqrt(1 / n), rho).gradient_correlation[-1]
        for n in layers.flat
    ]
    return np.reshape(np.array(ends, dtype=np.float64), layers.shape)


def highway_uncentred_limit(rho: float = 0.0) -> float:
    """Limit of `highway_uncentred` for L -> infinity: g(rho(1)) / g(rho(0)), g(r) = k1(r) - r.

    There rho follows d rho / dt = g(rho) for unit time, and R is the derivative of rho(1) in rho(0), which for a flow
    on a line is the ratio of its speeds. 0.634 at rho = 0; 1 at rho = 1, where inputs are one.

    Args:
        rho: Correlation of the two inputs, in [-1, 1].

    Returns:
        Correlation in (0, 1], to about 1e-9.

    Raises:
        ValueError: rho is no correlation.

    Source:
        Derived.
    """
    from scipy.integrate import solve_ivp

    start = correlation(rho, "rho")
    if start == 1:
        return 1.0
    flow = solve_ivp(
        lambda _, r: k1(np.clip(r, -1, 1)) - r, (0.0, 1.0), [start], rtol=1e-11, atol=1e-13, method="DOP853"
    )
    end = float(flow.y[0, -1])
    return (float(k1(end)) - end) / (float(k1(start)) - start)
