"""Which blocks' branches does the gradient pass?"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.branches import Chosen
from gradscope.gradients.live import open_paths
from gradscope.gradients.sources import Source
from gradscope.gradients.split import Paths
from gradscope.problem import as_problem
from gradscope.progress import progress
from gradscope.studies.paths.estimates import defined_examples, over_examples
from gradscope.studies.paths.norms import Parts, parts_of
from gradscope.studies.paths.rows import conditions, frame_of, gradient_unit, row

if TYPE_CHECKING:
    import pandas as pd

# So many numbers of results are held at a time: 64 MB.
_HELD = 2**23
# Runs between two signs of progress; a walk over so many costs hardly more a run than over all of them.
_AT_ONCE = 16


def block_participation(
    problem: Any,
    *,
    source: Source = "loss",
    norms: str = "batch",
    at: str = "input",
    junctions: Chosen = None,
    precision: torch.dtype | None = None,
    engine: str = "auto",
    show: bool | None = None,
) -> "pd.DataFrame":
    """How much of the gradient passes each block's branch: what is missing if it is closed in the backward pass.

    The forward pass stays that of the intact network. Unlike closing a branch in the forward pass (`lesion_study`),
    this leaves normalisation its statistics and every other branch its input, so it tells what the gradient
    takes, not what the network would do without the block. Costs one backward pass for each branch, and one more
    for each block of several.

    Args:
        problem: Problem or (model, data); the first batch is used.
        source: As in `path_spectrum`.
        norms: `batch`, or `example`: each example's own values, averaged over examples with a Student-t interval.
        at: As in `path_spectrum`.
        junctions: Which are closed. None: the outermost that have a skip.
        precision: torch.float64 measures a copy in that precision.
        engine: As in `path_gradients`.
        show: Progress, as in `progress`.

    Returns:
        Frame with columns `batch_norm`, `dtype`, `source`, `at`, `norms`, `quantity`, `unit`, `junction`, `kind`,
        `index`, `branch` (-1: all branches of the junction at once; with several, rows for each of them too),
        `attention` (whether attention lies inside), `estimator`, `value`, `low`, `high`, `n` (examples averaged
        over), `status`, `reason`. With g(b) the gradient that does not cross b:

        - `participation`: <g - g(b), g> / |g|^2, the signed share of the paths through b. Added up over branches it is
          the mean path length, for a path of k branches is counted k times;
        - `participation_norm`: |g - g(b)| / |g|, at least the absolute value of that; near 0: the gradient does
          not need b;
        - `gradient_norm_without`: |g(b)|, in units of the gradient.

    Raises:
        ValueError: As `path_spectrum`.

    Source:
        Derived: backward lesions; that they add up to the mean path length, too.

    Example:
        >>> frame = gs.block_participation((model, (x, y)))
    """
    problem = as_problem(problem)
    with open_paths(problem, precision=precision, source=source, at=at, junctions=junctions) as paths:
        parts = parts_of(problem, paths, norms)
        closed = _closed(paths)
        values = _participation(paths, parts, [branches for _, _, branches in closed], engine, show)
        branches = paths.branches
        dtype = str(paths.loss.dtype).removeprefix("torch.")
    unit = gradient_unit(source, at)
    units = {"participation": "1", "participation_norm": "1", "gradient_norm_without": unit}
    rows = []
    for quantity, of_examples in zip(units, values, strict=True):
        kept, note = defined_examples(of_examples)
        for (junction, place, members), value, low, high in zip(
            closed, *(band.tolist() for band in over_examples(kept)), strict=True
        ):
            where = {
                "junction": paths.junctions[junction].name,
                "kind": paths.junctions[junction].kind,
                "index": paths.junctions[junction].index,
                "branch": place,
                "attention": any(branches[member].attention for member in members),
            }
            rows.append(
                row(
                    quantity,
                    units[quantity],
                    value,
                    low=low,
                    high=high,
                    n=kept.shape[1],
                    reason=note,
                    **where,
                )
            )
    shared = conditions(problem, dtype, source, at, norms)
    return frame_of(rows, shared, ["junction", "kind", "index", "branch", "attention"])


def _closed(paths: Paths) -> list[tuple[int, int, list[int]]]:
    """What is closed in each run: place of the junction, which of its branches (-1: all), their numbers."""
    runs = []
    for place, junction in enumerate(paths.junctions):
        own = [number for number, b in enumerate(paths.branches) if b.junction.index == junction.index]
        runs.append((place, -1, own))
        if len(own) > 1:
            runs += [(place, paths.branches[number].place, [number]) for number in own]
    return runs


def _participation(
    paths: Paths, parts: Parts, closed: list[list[int]], engine: str, show: bool | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Participation, its norm, and the norm of what is left, [closed, E] each, on the CPU."""
    gradient = parts.rows(paths.backward(), leading=0)
    largest = gradient.abs().amax(dim=1, keepdim=True)
    unit = gradient / largest
    square = unit.square().sum(dim=1)
    masks = torch.ones(len(closed), len(paths.branches), dtype=torch.float64)
    for mask, members in zip(masks, closed, strict=True):
        mask[members] = 0
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    held = min(_AT_ONCE, max(1, _HELD // max(1, gradient.numel())))
    with progress("block participation", len(masks), show=show) as advance:
        for some in masks.split(held):
            left = parts.rows(paths.gated(some, engine=engine)) / largest
            missing = unit - left
            share = torch.einsum("med,ed->me", missing, unit) / square
            norm = torch.linalg.vector_norm(missing, dim=2) / square.sqrt()
            found.append((share, norm, torch.linalg.vector_norm(left, dim=2) * largest[:, 0]))
            advance(len(some))
    shares, norms, rests = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    zero = gradient.cpu().count_nonzero(dim=1) == 0
    return shares, norms, torch.where(zero, math.nan, rests)
