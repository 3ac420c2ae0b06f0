"""How long are the paths on average, and how different? Without splitting the gradient."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.branches import Chosen
from gradscope.gradients.live import open_paths
from gradscope.gradients.sources import Source
from gradscope.problem import as_problem
from gradscope.studies.paths.estimates import defined_examples, over_examples
from gradscope.studies.paths.norms import parts_of
from gradscope.studies.paths.rows import conditions, frame_of, row

if TYPE_CHECKING:
    import pandas as pd

NEGATIVE = "below 0, as signed shares are no probabilities: some of them are negative"


def path_moments(
    problem: Any,
    *,
    order: int = 2,
    source: Source = "loss",
    norms: str = "batch",
    at: str = "input",
    junctions: Chosen = None,
    precision: torch.dtype | None = None,
    engine: str = "auto",
) -> "pd.DataFrame":
    """Mean and variance of the path length under the signed shares <g_k, g> / |g|^2, at any depth.

    Back-propagates order + 1 cotangents, whatever the number of blocks: about as much as order + 1 backward passes,
    with as many numbers kept for each block. No gradient of a single length is formed, so nothing underflows.

    Args:
        problem: Problem or (model, data); the first batch is used.
        order: 1 for the mean, 2 for the variance too.
        source: As in `path_spectrum`.
        norms: `batch`, or `example`: each example's own shares, averaged over examples with a Student-t interval.
        at: As in `path_spectrum`.
        junctions: Which are counted. None: the outermost that have a skip.
        precision: torch.float64 measures a copy in that precision.
        engine: As in `path_gradients`.

    Returns:
        Frame with columns `batch_norm`, `dtype`, `source`, `at`, `norms`, `quantity`, `unit`, `junctions` (how many are
        counted), `estimator`, `value`, `low`, `high`, `n` (examples averaged over), `status`, `reason`:

        - `mean_path_length`, in residual branches: sum of k times the signed share. Between 0 and the number of
          junctions only if no share is negative;
        - `path_length_variance`, in branches squared. Negative where enough shares are, which the row says.

    Raises:
        ValueError: As `path_spectrum`; `order` is neither 1 nor 2.

    Source:
        The expectation semiring: Eisner (2002); Li and Eisner (2009).

    Example:
        >>> gs.path_moments((model, (x, y)))
    """
    if order not in (1, 2):
        raise ValueError(f"order is 1 (the mean path length) or 2 (its variance too), got {order!r}.")
    problem = as_problem(problem)
    with open_paths(problem, precision=precision, source=source, at=at, junctions=junctions) as paths:
        parts = parts_of(problem, paths, norms)
        gradient = parts.rows(paths.backward(), leading=0)
        moments = _moments(parts.rows(paths.moments(order, engine=engine)), gradient)
        counted = len(paths.junctions)
        dtype = str(paths.loss.dtype).removeprefix("torch.")
    kept, note = defined_examples(moments)
    units = {"mean_path_length": "branches", "path_length_variance": "branches^2"}
    rows = []
    for (quantity, unit), value, low, high in zip(
        units.items(), *(band.tolist() for band in over_examples(kept)), strict=False
    ):
        negative = quantity == "path_length_variance" and value < 0
        said = "; ".join(part for part in (NEGATIVE if negative else "", note) if part)
        rows.append(
            row(quantity, unit, value, low=low, high=high, n=kept.shape[1], reason=said, junctions=counted)
        )
    return frame_of(rows, conditions(problem, dtype, source, at, norms), ["junctions"])


def _moments(binomial: Tensor, gradient: Tensor) -> Tensor:
    """Mean, and variance if there are three rows, of the path length of each example, [order, E], on the CPU.

    Args:
        binomial: sum_k C(k, j) g_k for j = 0.., [order+1, E, D].
        gradient: g, [E, D].
    """
    largest = gradient.abs().amax(dim=1, keepdim=True)
    unit = gradient / largest
    first, *second = (
        torch.einsum("jed,ed->je", binomial[1:], unit) / unit.square().sum(dim=1) / largest[:, 0]
    ).cpu()
    # k^2 = 2 C(k, 2) + k.
    return torch.stack([first, *(2 * pairs + first - first.square() for pairs in second)])
