"""How long are the gradient's paths in a fresh ResNet with batch normalisation? Laws without a free parameter.

Both forms of block have branches of two He-initialised convolutions. Through such a branch the expected squared
norm of a cotangent is multiplied by 1 / (q v), v the variance of the stream (over batch and positions, mean
over channels) and q = 1 - 1/pi what batch normalisation sees of relu: each convolution doubles, each relu halves,
the first normalisation divides by 2 v (`post`, behind the convolution) or v (`pre`), the second by 2 Var(relu) = q.
Branches are independent random matrices, so paths are orthogonal on average and squared norms add up. What the
laws leave out: a finite batch (lengthens paths: 3 % at 100 examples of a dense network), and the padded border
of images (shortens them: of ResNet-20, 1 to 2 % at 32x32 and width 32, 6 to 15 % at 8x8 and width 16).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.theory._arguments import whole_number

SEEN = 1 - 1 / math.pi
_GRID = 400


def resnet_batch_norm_gains(
    blocks_per_stage: Sequence[int], input_variance: ArrayLike = 2.0
) -> NDArray[np.float64]:
    """Squared gains chi of the branches of a fresh PRE-activation ResNet, for `initialisation_path_lengths`.

    chi_l = 1 / (q (v_0 + q l)) for the blocks l = 0, 1, ... of the first stage. Later stages begin with a
    projection of the BN-ReLU that the branch reads too: its chi is 1/q, behind it the variance is 2 q and grows by
    q a block again. Blocks shortened by padding with zeros instead of a projection have no such law.

    Args:
        blocks_per_stage: Number of blocks of each stage, at least 1 each.
        input_variance: Variance v_0 > 0 of the stem's output over batch and positions, one number for each channel
            (shape [C], gains are averaged over channels, exactly) or their mean. Measure it in one forward pass
            of the fresh network; for a He-initialised convolution without normalisation behind it, it is on
            average twice the variance of the (zero-padded) input, hence the default for standardised data.

    Returns:
        Shape [blocks], positive, in forward order.

    Raises:
        ValueError: A stage without block, or a variance that is not positive and finite.

    Example:
        >>> gs.theory.mean_path_length(gs.theory.resnet_batch_norm_gains([18, 18, 18], 2.62))
        11.756809874024803

    Source:
        Derived; related: De & Smith (2020), arXiv:2002.10444.
    """
    stages = _stages(blocks_per_stage)
    variance = np.atleast_1d(np.asarray(input_variance, dtype=np.float64))
    if variance.ndim != 1 or variance.size == 0 or not np.isfinite(variance).all() or variance.min() <= 0:
        raise ValueError(
            f"input_variance is positive and finite, one number or one a channel, got {input_variance!r}."
        )
    gains = []
    for stage, blocks in enumerate(stages):
        if stage:
            gains.append(1 / SEEN)
            variance, blocks = np.array([2 * SEEN]), blocks - 1
        gains += [float(np.mean(1 / (SEEN * (variance + SEEN * place)))) for place in range(blocks)]
    return np.array(gains)


def post_activation_path_lengths(blocks_per_stage: Sequence[int]) -> NDArray[np.float64]:
    """Share of squared gradient norm by path length k = 0..n in a fresh POST-activation ResNet. Derived.

    Stem and branches end in batch normalisation, so a unit of the stream is a random walk with normal steps of
    variance 1, reflected at zero by the relu behind each sum: h <- relu(h + N(0, 1)). A later stage begins with a
    projection, likewise normalised: relu(N(0, 2)), with gain 1/q of its branch. Nothing is left to be measured.

    The lengths are NOT a sum of independent choices: which units a relu closes is remembered along the skips, so a
    path that skips from block l down to block j keeps the share of units that were open all the way (u_n =
    C(2n, n) / 4^n of those starting from zero, far more than the product of the shares), and only crossing a branch
    mixes them anew. Taking the product instead predicts paths that are too long, by 8 % at 12 blocks.

    Args:
        blocks_per_stage: Number of blocks of each stage, at least 1 each; the second and later stages begin with a
            projection followed by batch normalisation.

    Returns:
        Shape [n + 1], >= 0, summing to 1.

    Raises:
        ValueError: A stage without block.

    Source:
        Derived. The walk: Lindley (1952); its open shares: Sparre Andersen (1954). Blocks: He et al. (2015),
        arXiv:1512.03385.
    """
    stages = _stages(blocks_per_stage)
    shares = np.zeros(sum(stages) + 1)
    shares[0] = 1.0
    for stage in reversed(range(len(stages))):
        shares = _down_one_stage(shares, stages[stage] - (stage > 0), 1.0 if stage == 0 else 2.0)
        if stage:
            shares = shares + np.append(0.0, shares[:-1]) / SEEN
        shares /= shares.sum()
    return shares


def reflected_walk(
    steps: int, first_variance: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The walk h_0 = relu(N(0, first_variance)), h_l = relu(h_{l-1} + N(0, 1)) of a unit of a post-activation net.

    Args:
        steps: Number n of steps behind h_0, >= 0.
        first_variance: Of the first, > 0: 1 behind a normalised stem, 2 behind a projection block.

    Returns:
        Variances of h_0 .. h_n, shape [n + 1], and the probabilities [n + 1, n + 1] that h_j, ..., h_l are all
        positive (entry [j, l], j <= l; 0 below the diagonal). At first_variance 1, entry [0, l] is
        C(2m, m) / 4^m with m = l + 1. By quadrature, to about 1e-9.

    Raises:
        ValueError: `steps` is no whole number of at least 0, or the variance is not positive.

    Source:
        Lindley (1952) for the recursion; Sparre Andersen (1954) for the probabilities.
    """
    count = whole_number(steps, "steps", 0)
    if not (first_variance > 0 and math.isfinite(first_variance)):
        raise ValueError(f"first_variance is positive and finite, got {first_variance}.")
    reach = 7 * math.sqrt(count + first_variance)
    nodes, weights = np.polynomial.legendre.leggauss(_GRID)
    place, weights = (nodes + 1) * reach / 2, weights * reach / 2
    step = _normal(place[:, None] - place[None, :], 1.0) * weights
    density, closed = _normal(place, first_variance), 0.5
    variances, opened = np.zeros(count + 1), np.zeros((count + 1, count + 1))
    for start in range(count + 1):
        mean = weights @ (density * place)
        variances[start] = weights @ (density * place**2) - mean**2
        still_open = density
        for end in range(start, count + 1):
            opened[start, end] = weights @ still_open
            still_open = step @ still_open
        density = step @ density + closed * _normal(place, 1.0)
        closed = 1 - float(weights @ density)
    return variances, opened


def _down_one_stage(shares: NDArray[np.float64], blocks: int, first_variance: float) -> NDArray[np.float64]:
    """Squared norms by length behind the first relu of a stage, from those at the stage's end."""
    variances, opened = reflected_walk(blocks, first_variance)
    # Row l: cotangents that left a branch at h_l, where all units are alike, and have met no relu since.
    mixed = np.zeros((blocks + 1, len(shares)))
    mixed[blocks] = shares
    for end in range(blocks, 0, -1):
        for block in range(end, 0, -1):
            gain = 1 / (SEEN * variances[block - 1])
            mixed[block - 1, 1:] += mixed[end, :-1] * opened[block, end] * gain
    arrived: NDArray[np.float64] = opened[0] @ mixed
    return arrived


def _stages(blocks_per_stage: Sequence[int]) -> list[int]:
    stages = [whole_number(blocks, "blocks_per_stage", 1) for blocks in blocks_per_stage]
    if not stages:
        raise ValueError("blocks_per_stage needs at least one stage, such as [3, 3, 3].")
    return stages


def _normal(values: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
    density: NDArray[np.float64] = np.exp(-(values**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    return density
