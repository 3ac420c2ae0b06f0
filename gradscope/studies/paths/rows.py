"""Rows of the frames that studies of path lengths hand back."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradscope.gradients.result import PathGradients
from gradscope.gradients.sources import Source
from gradscope.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

BLANK = {
    "estimator": "exact",
    "low": math.nan,
    "high": math.nan,
    "n": 1,
    "status": "ok",
    "reason": "",
}
NO_GRADIENT = "the gradient is zero or not finite"


def source_name(source: Source) -> str:
    """`loss`, `logit`, `margin`, or the name of a function."""
    return source if isinstance(source, str) else getattr(source, "__name__", type(source).__name__)


def gradient_unit(source: Source, at: str) -> str:
    """Unit of a gradient, such as `loss per input`."""
    place = {"input": "input", "parameters": "parameter"}.get(at, "output")
    return f"{source_name(source)} per {place}"


def precision_name(exact: PathGradients) -> str:
    """Of the backward passes."""
    return str(exact.dtype).removeprefix("torch.")


def conditions(problem: Problem, dtype: str, source: Source, at: str, norms: str) -> dict[str, str]:
    """The columns that are the same in all rows."""
    return {
        "batch_norm": problem.batch_norm_name,
        "dtype": dtype,
        "source": source_name(source),
        "at": at,
        "norms": norms,
    }


def row(
    quantity: str, unit: str, value: float, *, undefined: str = NO_GRADIENT, **columns: Any
) -> dict[str, Any]:
    """One row; where the value is not finite, its status and why."""
    made = {**BLANK, "quantity": quantity, "unit": unit, "value": value, **columns}
    if not math.isfinite(value):
        made |= {
            "value": math.nan,
            "low": math.nan,
            "high": math.nan,
            "status": "undefined",
            "reason": undefined,
        }
    return made


def frame_of(
    rows: Sequence[Mapping[str, Any]], shared: Mapping[str, str], where: Sequence[str]
) -> "pd.DataFrame":
    """Conditions, quantity, unit, the columns `where`, and the value with what belongs to it.

    Raises:
        RuntimeError: A number that is missing without saying why, or a reason in place of one that is there.
    """
    import pandas as pd

    for one in rows:
        known, undefined = math.isfinite(one["value"]), one["status"] == "undefined"
        if known == undefined or (undefined and not one["reason"]):
            raise RuntimeError(
                f"{one['quantity']} is {one['value']} with status {one['status']!r} and reason {one['reason']!r}; a "
                "missing number has the status 'undefined' and says why. Please report this model."
            )
    columns = ["quantity", "unit", *where, "estimator", "value", "low", "high", "n", "status", "reason"]
    return pd.DataFrame(list(rows), columns=columns).assign(**shared)[[*shared, *columns]]
