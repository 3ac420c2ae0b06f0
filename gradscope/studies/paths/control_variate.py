"""The sum of squared path norms by random signs, with less spread where paths are nearly parallel."""

from collections.abc import Sequence

import torch
from torch import Tensor

# With less of the gradient than this in common, taking it away saves no draws worth having.
WORTHWHILE = 0.1


def sums_of_squares(
    squares: Tensor, inner: Tensor, coherent: Tensor, signed: Tensor, numbers: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Estimates of the sum of squared path norms, one a draw, unbiased each.

    If g_k(signs) is the gradient of length k with what crosses each branch multiplied by a random sign, and e_k(signs)
    the number of its N paths counted with their signs, then for any fixed number a

        (2 a - a^2) |g_k|^2 / N + |g_k(signs) - a (e_k(signs) / N) g_k|^2

    has the mean S = sum over paths of |g_p|^2. With a = 0 this is |g_k(signs)|^2, which is best for orthogonal paths;
    with a = 1 it has no spread for identical ones. In between a = (kappa - 1) / (N - 1), of the coherence
    kappa = |g_k|^2 / S, is taken. Each draw gets its a from the other draws: were it taken from the same one,
    the mean would no longer be S.

    Args:
        squares: |g_k(signs)|^2 for each draw, length and example, [R, K+1, E].
        inner: <g_k(signs), g_k>, likewise.
        coherent: |g_k|^2, [K+1, E].
        signed: e_k(signs) / N, [R, K+1].
        numbers: N for each length; NaN where unknown, which leaves a at 0.

    Returns:
        [R, K+1, E], and for each length whether some a was not 0, [K+1].

    Source:
        Derived; Parseval's identity for the Walsh functions of the signs.
    """
    weights = common_parts(squares, coherent, numbers)
    number = torch.tensor(list(numbers), dtype=torch.float64)
    used = weights > 0
    a = weights[:, :, None]
    part = torch.where(used, weights * signed, 0.0)[:, :, None]
    whole = torch.where(number > 0, 1 / number, 0.0)[None, :, None] * coherent
    corrected = (2 * a - a.square()) * whole + squares - 2 * part * inner + part.square() * coherent
    return torch.where(used[:, :, None], corrected, squares), used.any(dim=0)


def common_parts(squares: Tensor, coherent: Tensor, numbers: Sequence[float]) -> Tensor:
    """For each draw and length the a that the other draws suggest, [R, K+1], in [0, 1]; 0 if below `WORTHWHILE`."""
    draws, lengths = squares.shape[:2]
    weights = torch.zeros(draws, lengths, dtype=torch.float64)
    if draws < 2:
        return weights
    whole = squares.sum(dim=2)
    others = (whole.sum(dim=0) - whole).clamp(min=0) / (draws - 1)
    number = torch.tensor(list(numbers), dtype=torch.float64)
    # Infinite where the others saw nothing of a gradient that is there: parallel paths that cancelled.
    coherence = coherent.sum(dim=1) / others
    suggested = ((coherence - 1) / (number - 1)).clamp(0, 1)
    usable = (number > 1) & torch.isfinite(number) & ~torch.isnan(suggested) & (suggested >= WORTHWHILE)
    return torch.where(usable, suggested, weights)
