"""Norms on a logarithmic scale, which neither underflow nor overflow where their squares would."""

import math

import torch
from torch import Tensor

# So many entries are held in float64 at a time: 32 MB.
_HELD = 2**22


def log_norms(rows: Tensor) -> Tensor:
    """Natural logarithm of the Euclidean norm of each row.

    Every row is divided by its own largest entry first, in float64. In float32, |g|^2 of a gradient of norm 1e-30 is
    zero; here its logarithm is right as long as the entries themselves are.

    Args:
        rows: [N, D], any float dtype.

    Returns:
        [N], float64, in nats of the entries' unit. -inf for a row of zeros (or without entries), inf for one that
        holds an infinity, NaN for one that holds a NaN.

    Raises:
        ValueError: `rows` is not a matrix.
    """
    if rows.ndim != 2:
        raise ValueError(
            f"log_norms needs a matrix [N, D], got {list(rows.shape)}. Flatten with .flatten(start_dim=1)."
        )
    if rows.numel() == 0:
        return torch.full((len(rows),), -math.inf, dtype=torch.float64, device=rows.device)
    at_once = max(1, _HELD // rows.shape[1])
    return torch.cat([_log_norms(block) for block in rows.split(at_once)])


def _log_norms(rows: Tensor) -> Tensor:
    values = rows.double()
    largest = values.abs().amax(dim=1)
    usable = torch.isfinite(largest) & (largest > 0)
    scale = torch.where(usable, largest, 1.0)
    norms = torch.linalg.vector_norm(values / scale[:, None], dim=1)
    return torch.where(usable, scale.log() + norms.log(), largest.log())


def log_root_mean_square(logarithms: Tensor) -> Tensor:
    """Logarithm of the root mean square of numbers of which the logarithms are given.

    Args:
        logarithms: [N], natural logarithms; -inf stands for zero.

    Returns:
        Scalar, float64. -inf if all numbers are zero; NaN for none at all.
    """
    if logarithms.numel() == 0:
        return torch.tensor(math.nan, dtype=torch.float64, device=logarithms.device)
    total: Tensor = torch.logsumexp(2 * logarithms.double(), dim=0)
    return (total - math.log(len(logarithms))) / 2
