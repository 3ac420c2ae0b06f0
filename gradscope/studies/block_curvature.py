"""Which blocks of parameters are curved, how, and which of them depend on each other?"""

import math
from collections.abc import Iterable
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import torch

from gradscope.curvature.hessian import hessian
from gradscope.curvature.partition import Partition
from gradscope.curvature.problem_operator import ProblemOperator
from gradscope.curvature.selection import Selection
from gradscope.gradients.gathered import read_once
from gradscope.problem import as_problem
from gradscope.progress import progress as shown_progress
from gradscope.studies.curvature.blocks import coupling_row, estimated_rows, exact_coupling_row, exact_rows
from gradscope.studies.curvature.exact import rounding
from gradscope.studies.curvature.extremes import Budget
from gradscope.studies.curvature.gradient import loss_and_gradient
from gradscope.studies.curvature.parts import alone, entries
from gradscope.studies.curvature.rows import VALUES, WHAT, reading

if TYPE_CHECKING:
    import pandas as pd

Pair = tuple[str, str]
Rows = list[dict[str, Any]]


def block_curvature(
    problem: Any,
    by: Partition = "layer",
    coupling: bool = True,
    *,
    pairs: str | Iterable[Pair] = "all",
    parameters: Selection = None,
    weight_decay: float = 0.0,
    dense_limit: int = 1000,
    accuracy: float = 0.1,
    tolerance: float = 1e-3,
    max_products: int = 300,
    seed: int = 0,
    progress: bool | None = None,
) -> "pd.DataFrame":
    """The Hessian seen as a matrix of blocks: the curvature within each, and the norm of what lies between two.

    With at most `dense_limit` parameters the Hessian is formed by P products, and everything is exact to rounding. Else
    each block takes up to `max_products` for its extreme eigenvalues and as many for its trace (or as many as it has
    parameters, if these are fewer, and is exact), and each pair takes up to twice `max_products`. Pairs grow with the
    square
    of the number of blocks: progress counts blocks and pairs, and `pairs` leaves some out.

    Args:
        problem: Problem or (model, data).
        by: As in `ProblemOperator.blocks`: `layer`, `block`, `stage`, `parameter`, or a mapping from names to
            selections.
        coupling: Whether the norms between blocks are measured.
        pairs: `all`; `neighbours`, blocks that follow one another in the model's order; or pairs of names.
        parameters, weight_decay: As in `hessian`.
        dense_limit: Largest number of parameters whose Hessian is formed.
        accuracy: Relative standard error that is aimed at for each trace.
        tolerance, max_products, seed: As in `extreme_eigenvalues`.
        progress: As `show` in `gradscope.progress`.

    Returns:
        The operator's conditions, then `by`, `block`, `other` (NaN but for couplings), `quantity`, `unit`, `value`,
        `low`, `high`, `products` (with the block, to have that number; of a Hessian that was formed, all of its P),
        `status`, `reason`, with rows of `quantity`
        - "lambda_max", "lambda_min" of the diagonal block, with residual bounds;
        - "trace", "trace_of_square", "participation_ratio" (tr H)^2 / tr H^2, with 95 % intervals;
        - "top_share": the largest eigenvalue in absolute value, squared, over the trace of the square, in (0, 1];
        - "kappa_lower": a rigorous lower bound on |lambda|_max / |lambda|_min, and "extreme_ratio", that ratio itself,
          where the block was formed;
        - "gradient_norm" and "parameters" of the block;
        - "coupling" of each pair: the norm ||H_ab||, with residual bounds, between `block` and `other`;
        - "products": of all of this together (`block` NaN).

    Raises:
        ValueError: An unknown `by` or pair, a limit out of range, or whatever `hessian` refuses.
        FloatingPointError: The loss or a product is not finite.

    Source:
        Li et al. (2016), Demystifying ResNet, arXiv:1611.01186: at the zero point of 2-shortcut nets every layer's
        block is zero, and all curvature lies between the two layers of a residual block.
    """
    import pandas as pd

    if dense_limit < 0 or max_products < 4 or not tolerance > 0 or not 0 < accuracy < 1:
        raise ValueError(
            "block_curvature needs dense_limit >= 0, max_products >= 4, tolerance > 0 and 0 < accuracy < 1; got "
            f"{dense_limit!r}, {max_products!r}, {tolerance!r}, {accuracy!r}."
        )
    problem = read_once(as_problem(problem))
    budget = Budget(tolerance, max_products, seed)
    with hessian(problem, parameters=parameters, weight_decay=weight_decay) as operator:
        blocks = {name: list(block.parameters) for name, block in operator.blocks(by).items()}
        chosen = _chosen(pairs, list(blocks)) if coupling else []
        what = f"curvature of {len(blocks)} blocks and {len(chosen)} pairs"
        _, gradient = loss_and_gradient(problem, parameters)
        with shown_progress(what, len(blocks) + len(chosen), show=progress) as advance:
            matrix = operator.dense() if operator.shape[0] <= dense_limit else None
            operator.close()
            rows: Rows = []
            spent = operator.products
            for name, names in blocks.items():
                slope = torch.cat([gradient[parameter] for parameter in names])
                if matrix is None:
                    with alone(operator, names) as block:
                        found = _of_block(block, budget, accuracy)
                        spent += block.products
                else:
                    places = entries(operator, names)
                    found = exact_rows(matrix[places][:, places], operator.dtype, len(matrix))
                found.append(reading("gradient_norm", float(slope.norm()), "loss per parameter"))
                found.append(reading("parameters", len(slope), "parameters"))
                rows += [row | {"block": name, "other": math.nan} for row in found]
                advance(1)
            for one, other in chosen:
                row = _between(operator, blocks[one], blocks[other], matrix, budget)
                rows.append(row | {"block": one, "other": other})
                spent += row["products"] if matrix is None else 0
                advance(1)
    rows.append(reading("products", spent, "products") | {"block": math.nan, "other": math.nan})
    frame = pd.DataFrame(rows).assign(by=by if isinstance(by, str) else "mapping", **operator.conditions)
    frame["products"] = frame["products"].fillna(0).astype("int64")
    return frame[[*operator.conditions, "by", "block", "other", *WHAT, *VALUES[:3], "products", *VALUES[3:]]]


def _of_block(block: ProblemOperator, budget: Budget, accuracy: float) -> Rows:
    if block.shape[0] <= budget.max_products:
        return exact_rows(block.dense(), block.dtype, block.shape[0])
    return estimated_rows(block, budget, accuracy)


def _between(
    operator: ProblemOperator,
    one: list[str],
    other: list[str],
    matrix: torch.Tensor | None,
    budget: Budget,
) -> dict[str, Any]:
    if matrix is not None:
        rows, columns = entries(operator, one), entries(operator, other)
        noise = rounding(matrix.abs().sum(dim=1), operator.dtype)
        return exact_coupling_row(matrix[rows][:, columns], noise, len(matrix))
    first, second = set(one), set(other)
    with operator.coupling(lambda name, _: name in first, lambda name, _: name in second) as pair:
        return coupling_row(pair, budget)


def _chosen(pairs: str | Iterable[Pair], names: list[str]) -> list[Pair]:
    if pairs == "all":
        return list(combinations(names, 2))
    if pairs == "neighbours":
        return list(pairwise(names))
    wanted = [] if isinstance(pairs, str) else [tuple(pair) for pair in pairs]
    known = [pair for pair in wanted if len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(names)]
    if not wanted or len(known) != len(wanted):
        raise ValueError(
            f"pairs is 'all', 'neighbours' or pairs of two different blocks of {', '.join(names)}; got {pairs!r}."
        )
    return [(one, other) for one, other in known]
