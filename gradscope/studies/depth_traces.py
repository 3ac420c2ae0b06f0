"""The input gradient of fresh networks of a scalar at every depth, many draws at a time."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradscope.data import line
from gradscope.gradients.traces.forward_mode import depth_derivatives
from gradscope.instruments.batch_norm import described
from gradscope.nets import Network, build
from gradscope.studies.traces.network_steps import network_steps
from gradscope.studies.traces.statistics import LAGS, reference_rows, statistic_rows, told

if TYPE_CHECKING:
    import pandas as pd

FAMILIES = ("plain_mlp", "residual_mlp")
_COLUMNS = [
    *("family", "depth", "seed", "batch_norm", "points", "quantity", "unit", "noise", "statistic"),
    *("x", "lag", "distance", "value", "low", "high", "n", "status", "reason"),
]


def depth_traces(
    family: str,
    depths: int | Sequence[int],
    *,
    seeds: int | Iterable[int] = range(20),
    points: int = 256,
    low: float = -2.0,
    high: float = 2.0,
    lags: int = LAGS,
    traces: bool = False,
    width: int = 200,
    bias_deviation: float | None = None,
    noise: bool = False,
    **options: Any,
) -> "pd.DataFrame":
    """How the input gradient along a line of scalars whitens with depth, in fresh networks.

    One network a seed, of the largest depth: its first l blocks and its readout are the network of depth l, so all
    depths of a seed share their weights, and one pass gives them all. Means over seeds at one depth are those of
    independent networks; differences between depths are paired.

    Args:
        family: `plain_mlp` or `residual_mlp`.
        depths: Numbers of blocks; a number L for 1 .. L.
        seeds: One network each; a number S for 0 .. S - 1.
        points: Of the grid on [low, high], `data.line`.
        low, high: Ends of the grid.
        lags: Largest lag of the statistics.
        traces: Keep the traces themselves, not their statistics alone.
        width: Units of a layer.
        bias_deviation: The networks have biases, drawn from N(0, bias_deviation^2), 0.07 for variance 1/N at 200 units.
            `bias=True` alone is as no biases, for they start at 0: without biases and normalisation the trace of a
            ReLU network has two values, one on each side of 0; with `normalise="mean"` so it is at depth 1, whose only
            kink is at the mean input.
        noise: Add a trace of white and one of brown noise (its running sum) for each seed, to be drawn beside the
            networks': `family` is their name, `depth` and the options are NaN.
        options: Those of the family, such as `normalise="mean"`, `beta=0.1`, `branch_layers=2`, `bias`. Several
            `outputs` are summed. Batch statistics are those of the grid, as constants (`frozen`). In float64.

    Returns:
        Frame with columns `family`, `width` and the options given, `depth`, `seed`, `batch_norm`, `points`,
        `quantity`, `unit`, `noise`, `statistic`, `x`, `lag`, `distance`, `value`, `low`, `high`, `n`, `status`,
        `reason`: for each depth and seed the statistics of `input_trace`, and `input_gradient` by `x` if asked for;
        rows of quantity `reference`, of depth 0 and seed -1, for noise of as many points.

    Raises:
        ValueError: Another family, no depth, no seed, a negative deviation, or an option that the family refuses.

    Source:
        Balduzzi et al. (2017), arXiv:1702.08591, figures 1 and 2.
    """
    import pandas as pd

    if family not in FAMILIES:
        raise ValueError(
            f"family is one of {', '.join(FAMILIES)}, got {family!r}. Use input_trace for others."
        )
    wanted, drawn = _listed(depths, 1), _listed(seeds, 0)
    if not wanted or sorted(wanted)[0] < 1 or not drawn:
        raise ValueError(
            "depths are whole numbers from 1 and seeds at least one, each a list or their number; got "
            f"depths={depths!r} and seeds={seeds!r}."
        )
    wanted = sorted(set(wanted))
    if taken := {"inputs", "depth", "seed"} & options.keys():
        raise ValueError(
            f"{', '.join(sorted(taken))} is no option here: inputs are scalars, and depths and seeds are lists."
        )
    grid = line(points, low, high, dtype=torch.float64)
    place, spacing = grid.flatten().tolist(), float(grid[-1] - grid[0]) / (points - 1)
    conditions = {"width": width, **options}
    if bias_deviation is not None:
        if not 0 <= bias_deviation < math.inf or options.get("bias", True) is not True:
            raise ValueError(
                f"bias_deviation is a finite number of at least 0, of networks with biases; got {bias_deviation!r} "
                f"and bias={options.get('bias', True)!r}."
            )
        options = {**options, "bias": True}
        conditions |= {"bias": True, "bias_deviation": bias_deviation}
    rows: list[dict[str, Any]] = []
    for seed in drawn:
        network = build(
            family, depth=wanted[-1], seed=seed, **{"inputs": 1, "outputs": 1, "width": width} | options
        ).double()
        if bias_deviation is not None:
            _draw_biases(network, bias_deviation, seed)
        found = network_traces(network, wanted, grid)
        for depth, trace in zip(wanted, found, strict=True):
            where = {"depth": depth, "seed": seed}
            rows += [where | row for row in statistic_rows(trace, spacing, lags)]
            if traces:
                shared = where | {"quantity": "input_gradient", "unit": "output per input", "n": 1}
                rows += [shared | {"x": x} | told(v) for x, v in zip(place, trace.tolist(), strict=True)]
    rows += [{"depth": 0, "seed": -1} | row for row in reference_rows(points, spacing, lags)]
    frame = pd.DataFrame([{"noise": "", "statistic": ""} | row for row in rows])
    frame = frame.assign(family=family, points=points, batch_norm=described(network, "auto"), **conditions)
    if noise:
        frame = pd.concat([frame, pd.DataFrame(_noise_rows(drawn, place))], ignore_index=True)
    return frame.reindex(columns=[_COLUMNS[0], *conditions, *_COLUMNS[1:]])


def _listed(given: Any, first: int) -> list[int]:
    """The numbers given, or as many as given from the first one on; none where they are no whole numbers."""
    if isinstance(given, int) and not isinstance(given, bool):
        return list(range(first, first + given))
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
    return [operator.index(number) for number in listed] if all(map(_whole, listed)) else []


def _whole(number: Any) -> bool:
    return hasattr(number, "__index__") and not isinstance(number, bool)


@torch.no_grad()
def _draw_biases(network: Network, deviation: float, seed: int) -> None:
    # Another stream than that of the weights, which the same seed would begin alike.
    generator = torch.Generator().manual_seed(seed ^ 0x9E3779B9)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.copy_(
                deviation * torch.randn(module.bias.shape, dtype=torch.float64, generator=generator)
            )


def _noise_rows(seeds: Sequence[int], place: Sequence[float]) -> list[dict[str, Any]]:
    rows = []
    for seed in seeds:
        white = torch.randn(len(place), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for family, values in (("white noise", white), ("brown noise", white.cumsum(dim=0))):
            shared = {
                "family": family,
                "depth": math.nan,
                "seed": seed,
                "batch_norm": "none",
                "points": len(place),
            }
            shared |= {"quantity": "input_gradient", "unit": "1", "noise": family, "statistic": "", "n": 1}
            rows += [shared | {"x": x} | told(v) for x, v in zip(place, values.tolist(), strict=True)]
    return rows


def network_traces(
    network: Network, depths: Sequence[int], points: Tensor, *, batch_norm: str = "auto"
) -> Tensor:
    """Derivative, along a line of inputs, of the network's first l blocks followed by its readout, for each l.

    No backward pass: values and derivatives go through the layers together. What comes out equals autograd's
    gradient of the same networks to rounding.

    Args:
        network: As in `network_steps`; the readout fits after every one of these blocks.
        depths: Numbers of blocks, each once and increasing, from 1.
        points: Grid of scalars, [M, 1], in the network's dtype and on its device.
        batch_norm: `auto`, `frozen` (statistics of the grid) or `running`.

    Returns:
        [depths, M], output per input, of the network's dtype.

    Raises:
        ValueError: A depth that the network does not have; as `network_steps`.
    """
    stem, blocks, readout = network_steps(network, batch_norm)
    wanted = set(depths)
    if not wanted or not wanted <= set(range(1, len(blocks) + 1)) or list(depths) != sorted(wanted):
        raise ValueError(
            f"depths increase within 1 .. {len(blocks)}, the network's blocks; got depths {list(depths)}."
        )
    through = list(blocks[: depths[-1]])
    readouts = [readout if number in wanted else None for number in range(1, len(through) + 1)]
    if stem is not None:
        through, readouts = [stem, *through], [None, *readouts]
    return depth_derivatives(through, readouts, points, torch.ones_like(points))
