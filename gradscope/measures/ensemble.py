"""How large is what a residual branch adds, beside what it is added to?"""

import math

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


class ChannelVariance:
    """Variance of each channel over examples and positions, averaged over channels, of values met batch by batch.

    What a batch normalisation of all of them together would divide by, squared: however they are split into
    batches, the result is the same. What is constant in a channel counts nothing.

    Attributes:
        entries: In each channel so far: examples times positions.

    Source:
        Ioffe & Szegedy (2015), arXiv:1502.03167; merged as in Chan, Golub & LeVeque (1979).
    """

    def __init__(self) -> None:
        self.entries = 0
        self.means = torch.zeros(0, dtype=torch.float64)
        self.squares = torch.zeros(0, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Take in a batch.

        Args:
            values: Shape [N, C, ...]; index 1 is the channel, whatever else it is in a network without batch
                normalisation.

        Raises:
            ValueError: `values` has no channels, nothing in it, or not as many channels as those before.
        """
        if values.ndim < 2 or values.numel() == 0:
            raise ValueError(f"ChannelVariance needs values of shape [N, C, ...], got {list(values.shape)}.")
        channels = values.detach().double().transpose(0, 1).flatten(start_dim=1)
        means = channels.mean(dim=1)
        squares = (channels - means[:, None]).square().sum(dim=1)
        if self.entries == 0:
            self.entries, self.means, self.squares = channels.shape[1], means, squares
            return
        if len(means) != len(self.means):
            raise ValueError(
                f"ChannelVariance got {len(means)} channels after {len(self.means)}; pass values of one kind."
            )
        total, step = self.entries + channels.shape[1], means - self.means
        self.squares = self.squares + squares + step.square() * self.entries * channels.shape[1] / total
        self.means = self.means + step * channels.shape[1] / total
        self.entries = total

    def variance(self) -> float:
        """At least 0, in the squared unit of the values, with divisor `entries`; NaN for one entry or none."""
        return float(self.squares.mean()) / self.entries if self.entries > 1 else math.nan


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
