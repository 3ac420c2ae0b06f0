"""Does a claim hold over seeds? Its criterion against the interval of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .claims import Claim

COLUMNS = [
    "claim_id",
    "part",
    "claim",
    "source",
    "prediction",
    "criterion",
    "measured",
    "low",
    "high",
    "n",
    "verdict",
    "settings",
    "reason",
]
VERDICTS = ("holds", "fails", "undecided", "not testable here")


def verdict(claim: Claim, values: Iterable[float], *, settings: str = "", reason: str = "") -> dict[str, Any]:
    """One row of the verdict table.

    The Student-t 95 % interval over per-seed values lies wholly inside the criterion (holds),
    wholly outside (fails), or straddles its edge (undecided). An exact claim is about every seed:
    `measured` is then the largest absolute deviation from its target, without an interval.

    Args:
        claim: What is claimed, with its criterion.
        values: The statistic, one value per seed. Values that are not finite are left out of the
            interval and named in `reason`; an exact claim cannot hold while there is one.
        settings: What the measurement was made on, in words.
        reason: More to say; required when there are no values, for then the claim is "not
            testable here" and the reader wants to know why.

    Returns:
        The keys of `COLUMNS`. `measured`, `low`, `high` are NaN where there is no such number.

    Raises:
        ValueError: No values and no reason.
    """
    numbers = np.array(list(values), dtype=float).ravel()
    finite = numbers[np.isfinite(numbers)]
    measured, low, high = _estimate(claim, finite)
    reasons = [reason] if reason else []
    if not len(numbers):
        if not reason:
            raise ValueError(f"Claim {claim.id} has no values, so its verdict needs a reason: pass reason=.")
        decision = "not testable here"
    else:
        lost = len(numbers) - len(finite)
        if lost:
            reasons.append(f"{lost} of {len(numbers)} seeds gave a value that is not finite")
        decision = _decide(claim, measured, low, high)
        least = claim.criterion.least_seeds
        if len(finite) < least:
            decision = "undecided"
            reasons.append(f"finite values from {len(finite)} of at least {least} seeds")
        elif lost and claim.criterion.kind == "exact" and decision == "holds":
            decision = "undecided"
        elif decision == "undecided":
            reasons.append("the interval straddles the criterion")
    return {
        "claim_id": claim.id,
        "part": claim.part,
        "claim": claim.claim,
        "source": claim.source,
        "prediction": claim.prediction,
        "criterion": str(claim.criterion),
        "measured": measured,
        "low": low,
        "high": high,
        "n": len(finite),
        "verdict": decision,
        "settings": settings,
        "reason": "; ".join(reasons),
    }


def verdict_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of `verdict` as a frame, its columns in the order of `COLUMNS`, also when there is no row.

    Raises:
        ValueError: A row lacks a column or has one more.
    """
    rows = list(rows)
    for row in rows:
        if set(row) != set(COLUMNS):
            raise ValueError(
                f"A verdict row has the keys {COLUMNS}; missing {sorted(set(COLUMNS) - set(row))}, "
                f"surplus {sorted(set(row) - set(COLUMNS))}. Make rows with verdict()."
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _estimate(claim: Claim, finite: np.ndarray) -> tuple[float, float, float]:
    """Measured value, and the ends of its 95 % interval (NaN below two seeds, and for exact claims)."""
    if not len(finite):
        return math.nan, math.nan, math.nan
    if claim.criterion.kind == "exact":
        return float(np.abs(finite - claim.criterion.target).max()), math.nan, math.nan
    mean = float(finite.mean())
    if len(finite) == 1:
        return mean, math.nan, math.nan
    if finite.min() == finite.max():
        return float(finite[0]), float(finite[0]), float(finite[0])
    from scipy.stats import t

    half = float(t.ppf(0.975, len(finite) - 1)) * float(finite.std(ddof=1)) / math.sqrt(len(finite))
    return mean, mean - half, mean + half


def _decide(claim: Claim, measured: float, low: float, high: float) -> str:
    criterion = claim.criterion
    if criterion.kind == "exact":
        return "holds" if measured <= criterion.tolerance else "fails"
    # A single value permitted by least_seeds = 1 comes from a closed form: it is its own interval.
    low, high = (measured, measured) if math.isnan(low) else (low, high)
    if criterion.low <= low and high <= criterion.high:
        return "holds"
    return "fails" if high < criterion.low or low > criterion.high else "undecided"
