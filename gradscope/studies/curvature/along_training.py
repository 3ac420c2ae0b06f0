"""The rows of one measurement along training."""

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradscope.curvature.condition_evidence import Evidence
from gradscope.curvature.condition_ratios import learning_rate_product
from gradscope.curvature.units import EIGENVALUE
from gradscope.studies.curvature.rows import reading, values_of

if TYPE_CHECKING:
    import pandas as pd

NOT_FINITE = "the loss or its gradient is not finite"
NAMES = {1: "lambda_max", -1: "lambda_min"}

Rows = list[dict[str, Any]]


def slope_rows(loss: float, gradient: dict[str, Tensor]) -> Rows:
    """`loss` and `gradient_norm`."""
    norm = math.sqrt(sum(float(part.square().sum()) for part in gradient.values()))
    told = {"loss": (loss, "loss"), "gradient_norm": (norm, "loss per parameter")}
    return [
        reading(
            name,
            value if math.isfinite(value) else math.nan,
            unit,
            reason="" if math.isfinite(value) else NOT_FINITE,
        )
        for name, (value, unit) in told.items()
    ]


def undefined_rows(rate: float | None) -> Rows:
    """What is told where the loss or its gradient is not finite."""
    rows = [reading(name, math.nan, EIGENVALUE, reason=NOT_FINITE) for name in NAMES.values()]
    return rows if rate is None else [*rows, reading("learning_rate_product", math.nan, reason=NOT_FINITE)]


def eigenvalue_rows(frame: "pd.DataFrame", *, block: str | None = None) -> Rows:
    """`lambda_max`, `lambda_min` and every `eigenvalue`; of a block, its `block_lambda_max`."""
    found = {int(row["rank"]): values_of(row) for row in frame.to_dict("records")}
    if block is not None:
        return [reading("block_lambda_max", unit=EIGENVALUE, **found[1], block=block)]
    named = [reading(name, unit=EIGENVALUE, **found[rank]) for rank, name in NAMES.items()]
    return named + [reading("eigenvalue", unit=EIGENVALUE, **found[rank], rank=rank) for rank in found]


def rate_rows(evidence: Evidence, rate: float | None, limit: float) -> Rows:
    """`learning_rate`, `learning_rate_product` and the `stability_limit` that it is compared with."""
    if rate is None:
        return []
    return [
        reading("learning_rate", rate, "squared parameters per loss"),
        reading("learning_rate_product", **vars(learning_rate_product(evidence, rate))),
        reading("stability_limit", limit),
    ]
