"""What do infinitely wide ReLU nets without normalisation do to the correlation of gradients?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.theory._arguments import correlation, real_number, whole_number
from gradscope.theory.arc_cosine import k0, k1


@dataclass(frozen=True)
class MeanField:
    """A recursion followed over layers 1..L; every array has shape [L], entry l - 1 for layer l.

    Attributes:
        depth: Layer or block number l = 1..L.
        input_correlation: rho_l in [-1, 1], correlation of what enters the l-th ReLU for two inputs
            (uncentred: the cosine in the limit of infinite width).
        gradient_correlation: R in [0, 1] between the gradients of two inputs after crossing l layers,
            Definition 1 of arXiv:1702.08591. Underflows to 0 where it is below 1e-308.
        log_gradient_variance: Natural logarithm of the squared gradient norm after l layers over that
            at the output. Kept as a logarithm because (alpha^2 + beta^2)^L overflows.
    """

    depth: NDArray[np.int64]
    input_correlation: NDArray[np.float64]
    gradient_correlation: NDArray[np.float64]
    log_gradient_variance: NDArray[np.float64]

    @property
    def gradient_variance(self) -> NDArray[np.float64]:
        """exp(log_gradient_variance), shape [L]; FloatingPointError where float64 cannot hold it."""
        with np.errstate(over="raise", under="raise"):
            try:
                return np.exp(self.log_gradient_variance)
            except FloatingPointError:
                raise FloatingPointError(
                    f"The gradient variance leaves the range of float64 within {len(self.depth)} layers "
                    f"(logarithm {self.log_gradient_variance[-1]:.4g}). Use log_gradient_variance."
                ) from None


def plain_correlation(
    depth: int,
    rho: float = 0.0,
    *,
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    variance: float = 1.0,
) -> MeanField:
    """Plain ReLU net, h_{l+1} = W relu(h_l) + b, without any normalisation or centring.

    rho_{l+1} = (w q_l k1(rho_l) / 2 + b) / q_{l+1} with q_{l+1} = w q_l / 2 + b, and
    R_L = prod_{l=1..L} k0(rho_l). Activations of different inputs grow alike, so R decays like L^-3
    rather than as the 2^-L of the theorem, which assumes co-activation 1/4 at every layer.

    Args:
        depth: Number L of ReLU layers, >= 1.
        rho: Correlation of the first pre-activations of two inputs, in [-1, 1] (the inputs' cosine
            if there is no bias). 0 stands for orthogonal inputs.
        weight_variance: Fan-in times the variance of a weight, > 0; He is 2.
        bias_variance: Variance of a bias, >= 0.
        variance: Mean square q_1 of the first pre-activations, > 0. Matters only beside a bias.

    Returns:
        The recursion at layers 1..L.

    Raises:
        ValueError: an argument is outside its range.
        FloatingPointError: the mean square of the pre-activations leaves the range of float64.

    Source:
        Derived from the arc-cosine kernels (Cho & Saul, NIPS 2009) as in Poole et al., arXiv:1606.05340, and
        Schoenholz et al., arXiv:1611.01232; asymptotics also in Hayou et al., arXiv:1902.06853.
    """
    layers = whole_number(depth, "depth", 1)
    now = correlation(rho, "rho")
    gain = real_number(weight_variance, "weight_variance", above=0) / 2
    bias = real_number(bias_variance, "bias_variance", least=0)
    q = real_number(variance, "variance", above=0)
    correlations = np.empty(layers)
    for layer in range(layers):
        correlations[layer] = now
        if bias == 0:
            now = float(k1(now))
            continue
        following = gain * q + bias
        if not math.isfinite(following):
            raise FloatingPointError(
                f"The pre-activations overflow at layer {layer + 2} (weight_variance {weight_variance}). "
                "Lower depth or weight_variance."
            )
        now = (gain * q * float(k1(now)) + bias) / following
        q = following
    return _profile(correlations, k0(correlations), math.log(gain))


def residual_correlation(
    depth: int, alpha: float = 1.0, beta: float = 1.0, rho: float = 0.0, *, branch_layers: int = 1
) -> MeanField:
    """Residual ReLU net, x <- alpha x + beta W relu(x), He-scaled W, without normalisation or centring.

    With s = alpha^2 + beta^2: rho_{l+1} = (alpha^2 rho_l + beta^2 k1(rho_l)) / s, each block multiplies
    the gradient's correlation by (alpha^2 + beta^2 k0(rho_l)) / s and its variance by s. Skips change
    the constant, not the exponent: R decays like L^-3 for any beta > 0.

    Args:
        depth: Number L of blocks, >= 1.
        alpha: Factor of the skip, any finite number. The paper's Eq. 2, alpha (x + beta W relu(x)),
            is this block with beta replaced by alpha * beta.
        beta: Factor of the branch, >= 0. alpha = sqrt(1 - 1/L), beta = sqrt(1/L) is the highway net of
            Corollary 1.
        rho: Correlation of the two inputs of the first block, in [-1, 1].
        branch_layers: Number k >= 1 of ReLUs, each with its W, in a branch: k1 is applied k times, and k0 is
            multiplied over them.

    Returns:
        The recursion at blocks 1..L; `input_correlation` is that of the first ReLU of a block.

    Raises:
        ValueError: an argument is outside its range, or alpha and beta are both zero.

    Source:
        Derived here from the arc-cosine kernels; the centred counterpart is Theorem 2 of
        Balduzzi et al. (2017), arXiv:1702.08591.
    """
    layers = whole_number(depth, "depth", 1)
    now = correlation(rho, "rho")
    skip = real_number(alpha, "alpha") ** 2
    branch = real_number(beta, "beta", least=0) ** 2
    if skip + branch == 0:
        raise ValueError("A block with alpha = beta = 0 lets no gradient through. Set one of them.")
    correlations, through = np.empty(layers), np.ones(layers)
    for layer in range(layers):
        correlations[layer] = inner = now
        for _ in range(whole_number(branch_layers, "branch_layers", 1)):
            through[layer] *= k0(inner)
            inner = float(k1(inner))
        now = (skip * now + branch * inner) / (skip + branch)
    factors = (skip + branch * through) / (skip + branch)
    return _profile(correlations, factors, math.log(skip + branch))


def _profile(correlations: NDArray[np.float64], factors: NDArray[np.float64], log_gain: float) -> MeanField:
    layers = np.arange(1, len(correlations) + 1)
    log_variance = np.asarray(layers * log_gain, dtype=np.float64)
    return MeanField(layers, correlations, np.multiply.accumulate(factors, dtype=np.float64), log_variance)
