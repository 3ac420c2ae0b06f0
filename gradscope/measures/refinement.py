"""How a residual block changes what flows past it: sizes, directions and distances of states."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def row_norms(values: Tensor) -> Tensor:
    """Euclidean norm of each example, over everything but the first axis: [N], float64.

    Args:
        values: [N, ...], any float dtype.

    Source:
        The branch and stream norms of Chang et al. (2018), arXiv:1710.10348, figure 4.
    """
    return torch.linalg.vector_norm(values.double().flatten(start_dim=1), dim=1)


def row_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between two vectors of each example.

    1 for the same direction, -1 for opposite ones, near 0 for unrelated ones. With the loss gradient at a
    block's input as `second`, negative means that the block goes down the loss.

    Args:
        first, second: [N, ...] of one shape; each example is flattened. Scale does not matter, however
            small: rows are divided by their own largest entry, not by a norm plus an epsilon.

    Returns:
        [N], float64, in [-1, 1]. NaN where a row is exactly zero, for it has no direction.

    Raises:
        ValueError: Different shapes.

    Source:
        Jastrzebski et al. (2018), arXiv:1710.04773, section 4.
    """
    _same_shape("row_cosines", first, second)
    return _cosines(first.flatten(start_dim=1), second.flatten(start_dim=1)).clamp(-1, 1)


def norm_ratio(branch: Tensor, stream: Tensor) -> Tensor:
    """Norm of what a block adds over the norm of what it adds to, for each example.

    0 for a block that does nothing; far below 1 for one that refines; 1 and more for one that replaces.

    Args:
        branch, stream: [N, ...] of one shape.

    Returns:
        [N], float64, at least 0. NaN where the stream is exactly zero.

    Raises:
        ValueError: Different shapes.

    Source:
        Jastrzebski et al. (2018), arXiv:1710.04773, the l2 ratio.
    """
    _same_shape("norm_ratio", branch, stream)
    norm = row_norms(stream)
    return torch.where(norm > 0, row_norms(branch) / norm, torch.full_like(norm, math.nan))


def first_order_change(branch: Tensor, gradient: Tensor) -> Tensor:
    """Change of each example's loss that closing a branch makes to first order: -F . dL/d(sum).

    Args:
        branch: What the branch adds, F, [N, ...].
        gradient: Gradient of the summed loss at the block's sum, of the same shape.

    Returns:
        [N], float64, in units of the loss; exact in the limit of small branches.

    Raises:
        ValueError: Different shapes.

    Source:
        Jastrzebski et al. (2018), arXiv:1710.04773, equation 4, for one block.
    """
    _same_shape("first_order_change", branch, gradient)
    return -(branch.double() * gradient.double()).flatten(start_dim=1).sum(dim=1)


def block_influence(before: Tensor, after: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - cosine between what goes into a block and what comes out of it.

    0 where direction is kept, 1 where input and output are unrelated, 2 where they are opposite. Small
    where the block adds little, but also where it adds along the stream.

    Args:
        before, after: [N, T, D]: cosines per token, then the mean over the tokens of an example, as
            defined for language models. Other shapes, [N, ...]: one cosine for each flattened example.
        weight: For [N, T, D] only: weights of tokens, [N, T], 0 for padding. None: all 1.

    Returns:
        [N], float64, in [0, 2]. NaN where a vector that counts is exactly zero.

    Raises:
        ValueError: Different shapes.

    Source:
        Men et al. (2024), ShortGPT, arXiv:2403.03853, equation 1.
    """
    _same_shape("block_influence", before, after)
    if before.ndim != 3:
        return 1 - row_cosines(before, after)
    influence = 1 - _cosines(before, after).clamp(-1, 1)
    return token_mean(influence, weight)


def angular_distances(states: Sequence[Tensor]) -> Tensor:
    """Angle between any two states of an example, as a share of a half turn: arccos(cosine) / pi.

    0 for the same direction, 0.5 for orthogonal states, 1 for opposite ones.

    Args:
        states: S tensors [N, ...] of one shape, each example flattened. For language models, the states
            at the last token.

    Returns:
        [N, S, S], float64, in [0, 1]; resolves angles down to about 1e-8. NaN where a state is exactly zero.

    Raises:
        ValueError: No states, or different shapes.

    Source:
        Gromov et al. (2024), arXiv:2403.17887, equation 7.
    """
    if not states:
        raise ValueError("angular_distances compares states, but got none.")
    for state in states[1:]:
        _same_shape("angular_distances", states[0], state)
    distances = []
    for example in zip(*states, strict=True):
        rows = torch.stack([_unit(state.double().flatten()) for state in example])
        distances.append((rows @ rows.T).clamp(-1, 1).arccos() / math.pi)
    return torch.stack(distances)


def estimation_error(difference: Tensor) -> Tensor:
    """Mean, spread and root mean square over units of a stage's estimation error.

    Args:
        difference: E_x[h^k - h^L] for each unit, any shape: mean difference over examples between the state
            after block k and the last state of its stage.

    Returns:
        [3], float64, in units of the state: mean over units (0 if blocks are unbiased estimates of the
        stage's last state), standard deviation over units (divided by their number), root mean square.
        rms^2 = mean^2 + spread^2.

    Source:
        Greff et al. (2017), arXiv:1612.07771, equation 5 and figure 3.
    """
    units = difference.double().flatten()
    return torch.stack([units.mean(), units.std(correction=0), units.square().mean().sqrt()])


def divergence(reference: Tensor, logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the classes that `logits` give from those that `reference` gives.

    Args:
        reference, logits: [N, classes] or, for language models, [N, T, vocabulary].
        weight: Weights of tokens, [N, T].

    Returns:
        [N], float64, in nats, at least 0 and exactly 0 for the same logits; mean over tokens. A class that
        `reference` rules out (logit -inf) adds nothing, one that `logits` alone rules out makes it infinite. NaN
        where a logit of a token that counts is NaN, or where all of them are -inf.

    Raises:
        ValueError: Different shapes.
    """
    _same_shape("divergence", reference, logits)
    own = functional.log_softmax(reference.double(), dim=-1)
    other = functional.log_softmax(logits.double(), dim=-1)
    # Where exp(-inf) (-inf) would be undefined its limit is 0.
    gap = torch.where(own == -math.inf, 0.0, own.exp() * (own - other)).sum(dim=-1)
    known = ~(own.isnan() | other.isnan()).any(dim=-1)
    return token_mean(torch.where(known, gap.clamp(min=0), math.nan), weight)


def agreement(reference: Tensor, logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Share of places where both name the same likeliest class: [N], float64, in [0, 1]; as `divergence`.

    NaN where a logit that counts is NaN, for that names no class.
    """
    _same_shape("agreement", reference, logits)
    same = (reference.argmax(dim=-1) == logits.argmax(dim=-1)).double()
    known = ~(reference.isnan() | logits.isnan()).any(dim=-1)
    return token_mean(torch.where(known, same, math.nan), weight)


def token_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over everything but examples, [N]; a weight [N, T] of 0 leaves a token out, NaN or not."""
    if weight is None or values.shape != weight.shape:
        return values.flatten(start_dim=1).mean(dim=1) if values.ndim > 1 else values
    counted = torch.where(weight > 0, values * weight, torch.zeros_like(values))
    return counted.sum(dim=1) / weight.sum(dim=1)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines along the last axis."""
    return (_unit(first.double()) * _unit(second.double())).sum(dim=-1)


def _unit(rows: Tensor) -> Tensor:
    """Vectors along the last axis, of length 1; NaN where zero."""
    rows = rows / rows.abs().amax(dim=-1, keepdim=True)
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)


def _same_shape(name: str, first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"{name} compares tensors of one shape, got {list(first.shape)} and {list(second.shape)}. For a "
            "block that changes the shape, take what its skip makes of the input."
        )
