"""How many eigenvalues of the Hessian stand out, and does the gradient live in their eigenvectors?"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.curvature.condition_evidence import Evidence
from gradscope.curvature.eigenpairs import extreme_eigenpairs
from gradscope.curvature.hessian import hessian
from gradscope.curvature.selection import Selection
from gradscope.curvature.units import EIGENVALUE
from gradscope.gradients.gathered import read_once
from gradscope.problem import Problem, as_problem
from gradscope.studies.curvature.conditions import outlier_row
from gradscope.studies.curvature.gradient import loss_and_gradient
from gradscope.studies.curvature.rows import VALUES, WHAT, reading, values_of

if TYPE_CHECKING:
    import pandas as pd

IGNORED = -100
NO_CLASSES = "the targets are not one class number for each example"
NO_GRADIENT = "the gradient is zero, so it has no direction"
NOT_APART = "this eigenvalue and the next are not told apart, so that neither is the subspace"


def top_subspace(
    problem: Any,
    k: int | None = None,
    *,
    parameters: Selection = None,
    tolerance: float = 1e-3,
    max_products: int = 500,
    seed: int = 0,
) -> "pd.DataFrame":
    """The largest eigenvalues, how many stand out, and the share of the gradient in the span of their eigenvectors.

    In trained classifiers about as many eigenvalues stand out as there are classes, and after a short while most of the
    gradient lies in the span of their eigenvectors.

    Args:
        problem: Problem or (model, data).
        k: Dimension of the subspace, less than P. None: twice the number of classes, or 10 where there are no classes.
            One eigenvalue more is computed, to tell where the subspace ends.
        parameters: As in `hessian`.
        tolerance, max_products, seed: As in `extreme_eigenvalues`.

    Returns:
        Columns `operator`, `batch_norm`, `k`, `rank`, `quantity`, `unit`, `value`, `low`, `high`, `status`, `reason`,
        with rows of `quantity`
        - "eigenvalue": `rank` 1 to k + 1, `low` and `high` by the residual;
        - "gradient_share": of the squared gradient in the span of the first `rank` = `k` eigenvectors, in [0, 1].
          `low` and `high` by the sine theorem of Davis and Kahan: the residuals over the gap to the next eigenvalue,
          as long as the run missed none in between (see `extreme_eigenvalues`); "unconverged" where that
          leaves [0, 1], as between copies of one eigenvalue;
        - "random_share": what a random direction would have, k / P, and the 95 % of its Beta(k/2, (P - k)/2)
          distribution;
        - "outliers": how many eigenvalues lie above the edge of the bulk, by the rule of the condition number
          `bulk_edge_ratio`: the widest gap of a factor 2 or more with three resolved eigenvalues below it. `low`
          and `high` are equal to it; undefined where there is no such gap among the k + 1;
        - "classes": how many classes the targets hold.

    Raises:
        ValueError: k out of range, or whatever `hessian` refuses.
        FloatingPointError: The loss or a product is not finite.

    Source:
        Gur-Ari, Roberts, Dyer (2018), Gradient descent happens in a tiny subspace, arXiv:1812.04754; Davis and Kahan
        (1970), The rotation of eigenvectors by a perturbation III.
    """
    import pandas as pd

    problem = read_once(as_problem(problem))
    classes = _classes(problem)
    _, gradient = loss_and_gradient(problem, parameters)
    slope = torch.cat(list(gradient.values()))
    size = len(slope)
    if size < 2:
        raise ValueError("top_subspace needs two parameters or more, for one has no subspace; this has 1.")
    if k is None:
        k = max(1, min(2 * classes if classes else 10, size - 1))
    if not 1 <= k < size:
        raise ValueError(f"top_subspace needs 1 <= k < {size}, the number of parameters, got k={k!r}.")
    with hessian(problem, parameters=parameters) as operator:
        pairs = extreme_eigenpairs(
            operator, k + 1, ends="largest", tolerance=tolerance, max_products=max_products, seed=seed
        )
    found = pairs.frame.to_dict("records")
    rows = [
        reading("eigenvalue", unit=EIGENVALUE, **values_of(row)) | {"k": k, "rank": row["rank"]}
        for row in found
    ]
    rows += _shares(found, pairs.vectors.double(), slope)
    rows += [_random(width, size) for width in range(1, k + 1)]
    rows.append(outlier_row(Evidence(frame=pairs.frame)) | {"k": k})
    told = math.nan if classes is None else classes
    rows.append(reading("classes", told, "classes", reason=NO_CLASSES if classes is None else "") | {"k": k})
    frame = pd.DataFrame(rows).assign(**operator.conditions)
    return frame[[*operator.conditions, "k", "rank", *WHAT, *VALUES]]


def _shares(found: list[dict[Any, Any]], vectors: Tensor, slope: Tensor) -> list[dict[str, Any]]:
    """The share of the squared gradient in the span of the first 1, 2, ... vectors."""
    square = float(slope.square().sum())
    overlaps = (vectors.to(slope.device) @ slope).square() / (square or math.nan)
    rows = []
    for width in range(1, len(found)):
        where = {"k": width, "rank": width}
        if not square:
            rows.append(reading("gradient_share", math.nan, reason=NO_GRADIENT) | where)
            continue
        inside, following = found[:width], found[width]
        share = float(overlaps[:width].sum())
        apart = inside[-1]["value"] - following["high"]
        lost = math.sqrt(sum(row["residual"] ** 2 for row in inside)) / apart if apart > 0 else 1.0
        missing = [row for row in (*inside, following) if row["status"] != "ok"]
        rows.append(
            reading(
                "gradient_share",
                share,
                low=max(0.0, share - lost),
                high=min(1.0, share + lost),
                status="unconverged" if missing or lost >= 1 else "ok",
                reason=missing[0]["reason"] if missing else NOT_APART if lost >= 1 else "",
            )
            | where
        )
    return rows


def _random(width: int, size: int) -> dict[str, Any]:
    from scipy.stats import beta

    low, high = beta.ppf([0.025, 0.975], width / 2, (size - width) / 2)
    return reading("random_share", width / size, low=low, high=high) | {"k": width, "rank": width}


def _classes(problem: Problem) -> int | None:
    """How many different class numbers the targets hold; None where they hold none."""
    seen: set[int] = set()
    for _, targets in problem.batches():
        if targets is None or targets.ndim != 1 or targets.is_floating_point():
            return None
        seen |= set(targets.tolist())
    return len(seen - {IGNORED}) or None
