"""Over how many neighbouring inputs does a unit stay active, or inactive?"""

from typing import NamedTuple

import torch
from torch import Tensor


class RunLengths(NamedTuple):
    """Runs of equal states along a line of inputs.

    Attributes:
        mean: Mean length over all runs of all units, scalar, in inputs, from 1 to N.
        unit_means: Mean length of each unit's runs, [units]: N over its number of runs. Their mean weighs every
            unit alike, where `mean` weighs every run alike, and so units that switch often more.
        histogram: How many runs have length 0, 1, ..., N, [N + 1], int64; entry 0 is always 0.
        constant: Share of units that never switch, scalar in [0, 1].
    """

    mean: Tensor
    unit_means: Tensor
    histogram: Tensor
    constant: Tensor


def contiguity(active: Tensor) -> RunLengths:
    """Lengths of the runs of constant 0 or 1 along each row of a raster of units against inputs.

    About 2 where units switch as coins do, N where none ever switches. A run at an end of the line counts with the
    part of it that is on the line.

    Args:
        active: Whether a unit is active on an input, inputs in their order along the line: boolean, [N, units] with
            N >= 1 and at least one unit.

    Returns:
        `RunLengths`; numbers in float64, lengths in inputs.

    Raises:
        ValueError: `active` is not a boolean matrix with at least one row and one column.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figure 4.
    """
    if active.ndim != 2 or active.dtype != torch.bool or 0 in active.shape:
        raise ValueError(
            "contiguity needs a boolean raster [inputs, units] that is not empty, got "
            f"{active.dtype} {list(active.shape)}. Compare activations with 0."
        )
    inputs, units = active.shape
    rows = active.T
    edge = torch.ones(units, 1, dtype=torch.bool, device=active.device)
    starts = torch.cat([edge, rows[:, 1:] != rows[:, :-1]], dim=1)
    counts = starts.sum(dim=1)
    # Every unit's row starts a run, so in one long line of all rows a run ends where the next one starts.
    places = starts.flatten().nonzero()[:, 0]
    ends = torch.cat([places[1:], places.new_tensor([inputs * units])])
    return RunLengths(
        mean=inputs * units / counts.sum().double(),
        unit_means=inputs / counts.double(),
        histogram=torch.bincount(ends - places, minlength=inputs + 1),
        constant=(counts == 1).double().mean(),
    )
