"""Everything about the curvature of one network, in one frame."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradscope.curvature.condition import check_positive
from gradscope.curvature.hessian import hessian
from gradscope.curvature.operators import DENSE_LIMIT
from gradscope.curvature.partition import Partition
from gradscope.curvature.preconditioning import Diagonal
from gradscope.curvature.selection import Selection
from gradscope.gradients.gathered import read_once
from gradscope.problem import as_problem
from gradscope.progress import progress as shown_progress
from gradscope.studies.block_curvature import block_curvature
from gradscope.studies.curvature.along_training import slope_rows
from gradscope.studies.curvature.extremes import Budget
from gradscope.studies.curvature.gradient import loss_and_gradient
from gradscope.studies.curvature.options import check_between, check_whole
from gradscope.studies.curvature.rows import reading
from gradscope.studies.curvature.stability import stability_limit
from gradscope.studies.curvature.whole import Wanted, by_products, formed
from gradscope.studies.minibatch_curvature import minibatch_curvature, refuse_sizes

if TYPE_CHECKING:
    import pandas as pd

WHERE = [
    "definition",
    "rank",
    "eigenvalue",
    "resolution",
    "threshold",
    "by",
    "block",
    "other",
    "batch_size",
    "draw",
]
WHAT = ["value", "low", "high", "standard_error", "n", "products", "status", "reason"]


def curvature_study(
    problem: Any,
    *,
    k: int = 10,
    learning_rate: float | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    by: Partition | None = None,
    coupling: bool = False,
    sizes: Sequence[int] = (),
    draws: int = 5,
    parameters: Selection = None,
    precondition: Diagonal = None,
    accuracy: float = 0.05,
    probes: int = 10,
    steps: int = 80,
    dense_limit: int = 2000,
    tolerance: float = 1e-3,
    max_products: int = 500,
    seed: int = 0,
    progress: bool | None = None,
) -> "pd.DataFrame":
    """Loss, gradient, extreme eigenvalues, named condition numbers, density, traces, and on request blocks and
    minibatches.

    With at most `dense_limit` parameters the Hessian is formed, by P products, and all of these but the density's
    curve and the count of zero rows are exact. Else they cost at most `max_products` for the eigenvalues,
    probes * steps for the density and `max_products` for the trace. Progress counts these; blocks and minibatches show
    theirs.

    Args:
        problem: Problem or (model, data).
        k: Eigenvalues at each end.
        learning_rate, momentum, nesterov: Of the training, for the product with lambda_max and its limit of stability.
        weight_decay: Of the training, added to the diagonal.
        by: Also blocks, as in `block_curvature`; None for none.
        coupling: Also the norms between these blocks.
        sizes: Also minibatches of these sizes, `draws` of each, as in `minibatch_curvature`.
        parameters: As in `hessian`.
        precondition: As in `hessian`, such as `adam_diagonal(optimiser, problem)`: all is then of the preconditioned
            Hessian, without blocks or minibatches. For Adam's limit of stability give beta1 as momentum:
            (2 + 2 beta1) / (1 - beta1), 38 for 0.9 (Cohen et al. 2022, arXiv:2207.14484).
        accuracy: Relative standard error that is aimed at for the trace.
        probes, steps: As in `spectral_density`.
        dense_limit: Largest number of parameters whose Hessian is formed, at most 5000.
        tolerance, max_products, seed: As in `extreme_eigenvalues`.
        progress: As `show` in `gradscope.progress`.

    Returns:
        The operator's conditions, `examples`, `dtype` and `seed`, then `quantity`, `unit`, where a row has them
        `definition`, `rank`, `eigenvalue`, `resolution`, `threshold`, `by`, `block`, `other`, `batch_size`, `draw`, and
        `value`, `low`, `high`, `standard_error`, `n`, `products`, `status`, `reason`. Rows of the whole network
        (`block` and `batch_size` NaN):
        - "loss", "gradient_norm", "parameters";
        - "lambda_max", "lambda_min", "eigenvalue" by `rank`, with residual bounds, and "outliers", as in
          `top_subspace`;
        - "condition_number" by `definition`: negative_ratio, top_ratio, bulk_edge_ratio, and damped with a weight
          decay; kappa_lower (a rigorous lower bound) and kappa_resolved, or of a formed Hessian extreme_ratio and
          percentile_10, and "share_negative", the share of eigenvalues below 0 by more than rounding;
        - "learning_rate", "learning_rate_product", "stability_limit", with a learning rate;
        - "trace", "trace_of_square", "participation_ratio", "trace_over_lambda_max";
        - "spectral_density" over `eigenvalue`, and what else `spectral_density` reports: "negative_share", which counts
          eigenvalues below -`threshold` only, and so fewer than "share_negative"; "share_above", those beyond the
          threshold on either side; "absolute_trace", the sum of absolute values; all three exact for a formed Hessian;
        - "products" and "seconds" of all of this.
        Rows with a `block` are those of `block_curvature`, with a `batch_size` those of `minibatch_curvature`; figures
        take either part.

    Raises:
        ValueError: An option out of range, told before anything is measured, or whatever `hessian` refuses, such as a
            loader that shuffles where batch statistics make its batches differ.
        FloatingPointError: The loss or a product is not finite.

    Source:
        Of each quantity in the function that measures it.
    """
    import pandas as pd

    check_whole({"k": (k, 1), "max_products": (max_products, 4), "dense_limit": (dense_limit, 0)})
    check_whole({"probes": (probes, 2), "steps": (steps, 2), "draws": (draws, 1)})
    if dense_limit > DENSE_LIMIT:
        raise ValueError(f"A Hessian is formed with dense_limit <= {DENSE_LIMIT}, got {dense_limit!r}.")
    check_between({"accuracy": (accuracy, 0, 1), "tolerance": (tolerance, 0, math.inf)})
    check_positive({"learning_rate": learning_rate})
    budget = Budget(tolerance, max_products, seed)
    limit = stability_limit(momentum, nesterov=nesterov, averaged=precondition is not None)
    if precondition is not None and (by is not None or sizes):
        raise ValueError("With precondition= there are no blocks and no minibatches: leave by and sizes out.")
    decay = weight_decay if precondition is None else 0.0
    wanted = Wanted(k, budget, accuracy, probes, steps, learning_rate, limit, decay)
    problem = as_problem(problem)
    of_operator: dict[str, Any] = {"parameters": parameters, "weight_decay": weight_decay}
    if sizes:
        refuse_sizes(problem, sizes, draws)
    began = time.perf_counter()
    if by is not None:
        with hessian(problem, **of_operator, check="none") as operator:
            operator.blocks(by)
    of_operator["precondition"] = precondition
    # The check reads the data twice, which finds what differs from one reading to the next; what follows reads it once.
    with hessian(problem, **of_operator):
        problem = read_once(problem)
    loss, gradient = loss_and_gradient(problem, parameters)
    rows = slope_rows(loss, gradient)
    with hessian(problem, **of_operator, check="none") as operator:
        size = operator.shape[0]
        rows.append(reading("parameters", size, "parameters"))
        dense = size <= dense_limit
        most = size if dense else 2 * max_products + probes * min(steps, size)
        what = f"curvature of {size} parameters, products of at most"
        with shown_progress(what, most, show=progress) as advance:
            if dense:
                found, density = formed(operator, wanted, advance)
            else:
                found, density = by_products(operator, wanted, advance)
        told: dict[str, Any] = {**operator.conditions, "examples": problem.examples}
        told |= {"dtype": str(operator.dtype).removeprefix("torch."), "seed": seed}
        spent = operator.products
    parts = [pd.DataFrame(rows + found), density]
    about: dict[str, Any] = {
        "parameters": parameters,
        "weight_decay": weight_decay,
        "seed": seed,
        "progress": progress,
    }
    about |= {"tolerance": tolerance, "max_products": max_products}
    if by is not None:
        blocks = block_curvature(problem, by, coupling, accuracy=accuracy, dense_limit=dense_limit, **about)
        whole = blocks["quantity"] == "products"
        spent += int(blocks[whole]["value"].sum())
        parts.append(blocks[~whole])
    if sizes:
        parts.append(minibatch_curvature(problem, sizes, draws, **about))
        spent += int(parts[-1][parts[-1]["quantity"] == "lambda_max"]["products"].sum())
    cost = [reading("products", spent, "products"), reading("seconds", time.perf_counter() - began, "s")]
    parts.append(pd.DataFrame(cost))
    frame = pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True)
    frame = frame.reindex(columns=["quantity", "unit", *WHERE, *WHAT]).assign(**told)
    return frame[[*told, "quantity", "unit", *WHERE, *WHAT]]
