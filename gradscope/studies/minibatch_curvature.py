"""How much too large is the largest eigenvalue of the Hessian when it is taken from a minibatch?"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from gradscope.curvature.eigenvalues import extreme_eigenvalues
from gradscope.curvature.extremes import ENDS
from gradscope.curvature.hessian import hessian
from gradscope.curvature.operators import Operator
from gradscope.curvature.selection import Selection
from gradscope.curvature.units import EIGENVALUE
from gradscope.gradients.gathered import read_once
from gradscope.problem import Problem, as_problem
from gradscope.progress import progress as shown_progress
from gradscope.studies.curvature.minibatches import drawn
from gradscope.studies.curvature.rows import VALUES, WHAT, reading, values_of

if TYPE_CHECKING:
    import pandas as pd

NAMES = {1: "lambda_max", -1: "lambda_min"}
NO_INTERVAL = "one batch gives no interval"


def minibatch_curvature(
    problem: Any,
    sizes: Sequence[int] = (16, 64, 256),
    draws: int = 5,
    *,
    ends: str = "both",
    parameters: Selection = None,
    weight_decay: float = 0.0,
    tolerance: float = 1e-3,
    max_products: int = 300,
    seed: int = 0,
    progress: bool | None = None,
) -> "pd.DataFrame":
    """Extreme eigenvalues over random batches of several sizes, beside those over all examples.

    The Hessian of all examples is the mean of those of disjoint batches that make up the data, wherever examples do not
    mix; the largest eigenvalue is a convex function of the matrix, so by Jensen's inequality the batches' mean is too
    large, and the smallest eigenvalue's too small. With batch statistics (`frozen`, `train`) that law does not hold,
    since each batch is normalised by its own; the bias is usually there all the same.

    Args:
        problem: Problem or (model, data), with reduction="mean". All of its data is the full one compared with, in the
            problem's own batches.
        sizes: Examples in a batch; each at least 1 and at most all of them.
        draws: Batches of each size, at least 1. Those of one size are disjoint, so there may be fewer.
        ends: `both`, `largest` or `smallest`.
        parameters, weight_decay: As in `hessian`.
        tolerance, max_products, seed: As in `extreme_eigenvalues`; the seed draws the batches too.
        progress: As `show` in `gradscope.progress`.

    Returns:
        The operator's conditions, then `batch_size`, `draw`, `quantity`, `unit`, `value`, `low`, `high`, `n`,
        `products`, `status`, `reason`. Rows of `lambda_max` and `lambda_min` for each batch (`draw` from 0; `low` and
        `high` from the residual), for all examples (`draw` NaN, `batch_size` all of them); then for each size
        `lambda_max_ratio` and `lambda_min_ratio`, the mean over batches of their value over the full one (unit 1, 95
        % Student-t interval over the `n` batches, cautious since batches are drawn without replacement). A ratio is
        undefined where the full value is zero to within its residual or of the other sign than its name, and
        "unconverged", without an interval, where it is that of one batch.

    Raises:
        ValueError: An option out of range, a problem of reduction="sum", or batches that cannot be joined.
        FloatingPointError: The loss or a product is not finite.

    Source:
        Jensen's inequality; derived. That minibatch values are several times too large was seen on networks.
    """
    import pandas as pd

    problem = read_once(as_problem(problem))
    refuse_sizes(problem, sizes, draws, ends)
    options = {"ends": ends, "tolerance": tolerance, "max_products": max_products, "seed": seed}
    about: dict[str, Any] = {"parameters": parameters, "weight_decay": weight_decay}
    parts = drawn(problem, sorted(set(sizes)), draws, seed)
    rows = []
    with shown_progress("minibatch spectra", 1 + sum(map(len, parts.values())), show=progress) as advance:
        with hessian(problem, **about) as operator:
            full = _extremes(operator, problem.examples, math.nan, options)
            conditions = dict(operator.conditions)
        advance(1)
        for size, problems in parts.items():
            found = []
            for draw, smaller in enumerate(problems):
                with hessian(smaller, **about, check="none") as operator:
                    found.append(_extremes(operator, size, draw, options))
                advance(1)
            rows += [row for extremes in found for row in extremes.values()]
            rows += [
                _ratio(
                    rank, size, draws, full[rank], [extremes[rank] for extremes in found], problem.examples
                )
                for rank in ENDS[ends]
            ]
    frame = pd.DataFrame([*full.values(), *rows]).assign(**conditions)
    return frame[[*conditions, "batch_size", "draw", *WHAT, *VALUES[:3], "n", "products", *VALUES[3:]]]


def refuse_sizes(problem: Problem, sizes: Sequence[int], draws: int, ends: str = "both") -> None:
    """Raise ValueError for options that `minibatch_curvature` cannot measure with."""
    if not isinstance(sizes, Sequence | set):
        raise ValueError(f"sizes are several numbers of examples, such as ({sizes!r},), got {sizes!r}.")
    if ends not in ENDS or draws < 1 or not sizes or not all(1 <= size <= problem.examples for size in sizes):
        raise ValueError(
            f"minibatch_curvature needs sizes of 1 to {problem.examples} examples (all there are), draws >= 1 and ends "
            f"one of {', '.join(ENDS)}; got sizes={list(sizes)!r}, draws={draws!r}, ends={ends!r}."
        )
    if problem.reduction != "mean":
        raise ValueError(
            "minibatch_curvature compares mean losses, for a sum grows with the batch. Use reduction='mean'."
        )


def _extremes(
    operator: Operator, size: int, draw: float, options: dict[str, Any]
) -> dict[int, dict[str, Any]]:
    found = extreme_eigenvalues(operator, 1, **options)
    return {
        int(row["rank"]): reading(NAMES[int(row["rank"])], unit=EIGENVALUE, **values_of(row))
        | {"batch_size": size, "draw": draw, "n": 1, "products": int(row["products"])}
        for row in found.to_dict("records")
    }


def _ratio(
    rank: int,
    size: int,
    draws: int,
    full: dict[str, Any],
    batches: list[dict[str, Any]],
    examples: int,
) -> dict[str, Any]:
    name = f"{NAMES[rank]}_ratio"
    products = sum(batch["products"] for batch in batches)
    where = {"batch_size": size, "draw": math.nan, "n": len(batches), "products": products}
    if not (full["low"] > 0 if rank > 0 else full["high"] < 0):
        sign = "positive" if rank > 0 else "negative"
        reason = f"over all examples {NAMES[rank]} is {full['value']:.4g}, not {sign} beyond its residual"
        return reading(name, math.nan, reason=reason) | where
    ratios = torch.tensor([batch["value"] / full["value"] for batch in batches], dtype=torch.float64)
    value, low, high = mean_interval(ratios)
    open_ones = sum(batch["status"] != "ok" for batch in (full, *batches))
    reasons = [f"{open_ones} of its eigenvalues have not converged"] if open_ones else []
    if size == examples:
        low = high = value
        reasons.append("all examples, no draw")
    elif len(batches) == 1:
        reasons.append(NO_INTERVAL)
    reasons += [f"only {len(batches)} disjoint batches of {size} examples"] if len(batches) < draws else []
    status = "unconverged" if open_ones or math.isnan(low) else "ok"
    return reading(name, value, low=low, high=high, status=status, reason="; ".join(reasons)) | where


def mean_interval(values: torch.Tensor) -> tuple[float, float, float]:
    """The mean of independent values, [n], and its 95 % Student-t interval; NaN ends where n is 1."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t as student

    half = float(student.ppf(0.975, n - 1) * values.std(correction=1) / math.sqrt(n))
    return mean, mean - half, mean + half
