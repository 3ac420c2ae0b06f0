"""How large is what a residual branch adds, beside what it is added to?"""

import torch
from torch import Tensor


def root_mean_square(values: Tensor) -> Tensor:
    """Root mean square of each example's entries.

    Args:
        values: One row per example, shape [N, ...], any float dtype and scale: rows are divided by their
            largest entry first, so that squares neither vanish nor overflow.

    Returns:
        Shape [N], float64, in the unit of `values`; 0 for a row of zeros.

    Raises:
        ValueError: `values` has no rows, or rows without entries.
    """
    rows = _rows("root_mean_square", values)
    largest = rows.abs().amax(dim=1)
    divisor = torch.where(largest > 0, largest, torch.ones_like(largest))
    return largest * (rows / divisor[:, None]).square().mean(dim=1).sqrt()


def relative_size(branch: Tensor, skip: Tensor) -> Tensor:
    """Size of a branch over the size of its skip, example by example.

    0 where the branch adds nothing, 1 where both are of one size.

    Args:
        branch: Root mean square of the branch, shape [N].
        skip: Root mean square of the skip, shape [N].

    Returns:
        Shape [N], dimensionless, >= 0; NaN where the skip is exactly zero, for nothing has a size beside it.
    """
    return torch.where(skip > 0, branch / skip, torch.full_like(branch, torch.nan))


def channel_variance(values: Tensor) -> Tensor:
    """Variance of each channel over examples and positions, averaged over channels.

    What a batch normalisation of `values` would divide by, squared; what is constant in a channel counts
    nothing.

    Args:
        values: Shape [N, C, ...]; index 1 is the channel, whatever else it is in a network without batch
            normalisation.

    Returns:
        Scalar >= 0, float64, in the squared unit of `values`, with divisor N x positions; NaN where a channel has one
        entry only.

    Raises:
        ValueError: `values` has no channels, or nothing in it.

    Source:
        Ioffe & Szegedy (2015), arXiv:1502.03167.
    """
    if values.ndim < 2 or values.numel() == 0:
        raise ValueError(f"channel_variance needs values of shape [N, C, ...], got {list(values.shape)}.")
    channels = values.detach().double().transpose(0, 1).flatten(start_dim=1)
    if channels.shape[1] < 2:
        return torch.full((), torch.nan, dtype=torch.float64, device=values.device)
    return channels.var(dim=1, correction=0).mean()


def open_share(values: Tensor) -> Tensor:
    """Share of entries that are not exactly zero: of a ReLU's output, how many units let pass.

    Args:
        values: Any shape.

    Returns:
        Scalar in [0, 1], float64: 1 for a branch that does not end in a rectifier.
    """
    return (values != 0).double().mean()


def _rows(name: str, values: Tensor) -> Tensor:
    if values.ndim < 1 or values.numel() == 0:
        raise ValueError(f"{name} needs one row per example, [N, ...], got {list(values.shape)}.")
    return values.detach().double().reshape(len(values), -1)
