"""Rows of the frame of gradient flow."""

import math
from typing import Any

from gradscope.studies.flow.entries import Entries

Row = dict[str, Any]


def row_of(quantity: str, unit: str, value: float, n: int, **more: Any) -> Row:
    """One row; where it was read is added by the caller."""
    blank = {"parameter": "", "low": math.nan, "high": math.nan, "status": "ok", "reason": ""}
    return {"quantity": quantity, "unit": unit, "value": value, "n": n} | blank | more


def undefined(quantity: str, unit: str, n: int, status: str, reason: str) -> Row:
    return row_of(quantity, unit, math.nan, n, status=status, reason=reason)


def shares(prefix: str, entries: Entries) -> list[Row]:
    """What part of a gradient's entries is zero, subnormal, infinite or NaN."""
    counts = {"zero": entries.zero, "subnormal": entries.subnormal, "not_finite": entries.not_finite}
    return [
        row_of(f"{prefix}_{name}_share", "1", count / entries.number, entries.number)
        for name, count in counts.items()
        if entries.number
    ]


def exponential(value: float) -> float:
    """e^value, infinite where a float cannot hold it."""
    return math.exp(value) if value < 709 or math.isnan(value) else math.inf
