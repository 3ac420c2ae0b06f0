"""Rows of curvature frames: a value with its ends, its status and the reason."""

import math
from typing import Any

WHAT = ["quantity", "unit"]
VALUES = ["value", "low", "high", "status", "reason"]


def reading(
    quantity: str,
    value: float,
    unit: str = "1",
    *,
    low: float = math.nan,
    high: float = math.nan,
    status: str = "ok",
    reason: str = "",
    **where: Any,
) -> dict[str, Any]:
    """One row; a value that is NaN makes it "undefined", and its `reason` has to say why."""
    if math.isnan(value) and status == "ok":
        status = "undefined"
    told = {"value": float(value), "low": float(low), "high": float(high), "status": status, "reason": reason}
    return {"quantity": quantity, "unit": unit} | where | told


def values_of(row: Any) -> dict[str, Any]:
    """The value, ends, status and reason of a row of another frame, as arguments of `reading`."""
    numbers = {name: float(row[name]) for name in ("value", "low", "high")}
    return numbers | {name: str(row[name]) for name in ("status", "reason")}
