"""The sum of squared path norms by random signs, with less spread where paths are nearly parallel."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
    the mean would no longer be S. For that a the others estimate S with a = 1: it is scarcely worse for orthogonal
    paths, and for parallel ones, where the plain squares are heavy-tailed, an a that wavers with them would make the
    draws depend on one another, and their interval too narrow.

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
    number = torch.tensor(list(numbers), dtype=torch.float64)
    known = (number > 1) & torch.isfinite(number)
    # Where the number of paths is unknown, whatever is computed here is dropped below.
    usable = torch.where(known, number, 1.0)
    everything = _corrected(torch.ones(1, 1, 1), squares, inner, coherent, signed, usable)
    weights = torch.where(known, common_parts(everything, coherent, usable), 0.0)
    used = weights > 0
    corrected = _corrected(weights[:, :, None], squares, inner, coherent, signed, usable)
    return torch.where(used[:, :, None], corrected, squares), used.any(dim=0)


def common_parts(sums: Tensor, coherent: Tensor, number: Tensor) -> Tensor:
    """For each draw and length the a that the other draws suggest, [R, K+1], in [0, 1]; 0 with a single draw.

    Args:
        sums: Of squared path norms, estimated by each draw, [R, K+1, E].
        coherent: |g_k|^2, [K+1, E].
        number: Of paths, [K+1].
    """
    draws = len(sums)
    whole = sums.sum(dim=2)
    if draws < 2:
        return torch.zeros_like(whole)
    others = (whole.sum(dim=0) - whole) / (draws - 1)
    suggested = (coherent.sum(dim=1) / others - 1) / (number - 1)
    return suggested.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0, 1)


def _corrected(
    a: Tensor, squares: Tensor, inner: Tensor, coherent: Tensor, signed: Tensor, number: Tensor
) -> Tensor:
    """The estimate of each draw, with a as [R, K+1, 1] or so."""
    part = a * signed[:, :, None]
    shared = (2 * a - a.square()) * coherent / number[:, None]
    return shared + squares - 2 * part * inner + part.square() * coherent
