"""From the gradients heard at one place to rows of a frame."""

import math
from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.listen import Heard
from gradscope.measures.correlation import correlation_R_interval

QUANTITIES = ("correlation_R", "mean_cosine")


def rows_of(where: Heard, gradient: Tensor, examples: int, centred: bool) -> list[dict[str, Any]]:
    """`correlation_R` over all examples and `mean_cosine` over those with a non-zero gradient, with intervals."""
    place = {"unit": "1", "site": where.site, "depth": where.depth + 1, "call": where.call}
    if gradient.ndim == 0 or len(gradient) != examples:
        reason = "the first dimension of the output does not count the examples"
        return unread(place, 0, 0, "skipped", reason)
    rows = gradient.reshape(examples, -1).double()
    if not bool(torch.isfinite(rows).all()):
        return unread(place, 0, 0, "undefined", "a gradient is infinite or NaN")
    if centred:
        # Rows are brought near one first, for rounding is all that is left of equal ones.
        rows = rows / rows.abs().amax() if bool(rows.any()) else rows
        apart = rows - rows.mean(dim=0)
        rows = torch.where(apart.abs() <= 1e-13 * rows.abs().amax(), 0.0, apart)
    largest = rows.abs().amax(dim=1, keepdim=True)
    kept = rows[largest[:, 0] > 0] / largest[largest[:, 0] > 0]
    n, n_zero = len(kept), examples - len(kept)
    if n < 2:
        return unread(place, n, n_zero, "undefined", f"{n} examples have a non-zero gradient")
    shared = place | {"n": n, "n_zero": n_zero, "n_pairs": n * (n - 1) // 2, "status": "ok", "reason": ""}
    # The mean cosine is the correlation of gradients of equal length.
    directions = kept / torch.linalg.vector_norm(kept, dim=1, keepdim=True)
    measured = zip(QUANTITIES, (rows, directions), strict=True)
    return [
        shared
        | dict(zip(("quantity", "value", "low", "high"), (name, *correlation_R_interval(g)), strict=True))
        for name, g in measured
    ]


def unread(place: dict[str, Any], n: int, n_zero: int, status: str, reason: str) -> list[dict[str, Any]]:
    """Rows without a value, and why."""
    none = {
        "value": math.nan,
        "low": math.nan,
        "high": math.nan,
        "n": n,
        "n_zero": n_zero,
        "n_pairs": n * (n - 1) // 2,
    }
    return [place | none | {"quantity": name, "status": status, "reason": reason} for name in QUANTITIES]
