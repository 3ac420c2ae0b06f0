"""From values per example to means with intervals, and to what a lesion changes."""

import math
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradscope.measures.correlation import Estimate
from gradscope.measures.intervals import BOOTSTRAP_EXAMPLES, bootstrap_means, percentile_interval, wilson
from gradscope.measures.paired import bootstrap_p_value, holm, mcnemar, paired_difference

# So many columns are drawn anew together, which bounds what is held at a time.
_TOGETHER = 256
_FEW = f"fewer than {BOOTSTRAP_EXAMPLES} examples: the bootstrap's interval is too narrow"
_FEW_PAIRED = f"{_FEW} and its test rejects too often"


class Reading(NamedTuple):
    """A row to be, and the values whose mean it reports.

    Attributes:
        row: Its columns so far.
        values: One per example, [N]; of a paired reading, lesioned minus intact.
        binary: Whether the values are 0 and 1 (of a paired reading: -1, 0 and 1), counted rather than drawn anew.
        paired: Whether it is a difference from the intact network, to be tested.
        untested: Why such a difference is not tested after all; "" where it is.
    """

    row: dict[str, Any]
    values: Tensor
    binary: bool
    paired: bool
    untested: str = ""


def estimated(readings: list[Reading], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Each row with `value`, `low`, `high`, `p_value`, `p_holm`, `n` and `status`, and in `reason` what to mind.

    All means share their bootstrap draws of examples. Holm's adjustment is over the junctions that share a
    quantity and a treatment of the statistics.
    """
    drawn = [r for r in readings if not r.binary and len(r.values) > 1 and bool(r.values.isfinite().all())]
    intervals: dict[int, tuple[Estimate, float]] = {}
    for start in range(0, len(drawn), _TOGETHER):
        some = drawn[start : start + _TOGETHER]
        # The seed anew, so that every column meets the same draws.
        generator = torch.Generator().manual_seed(seed)
        means = bootstrap_means(torch.stack([r.values for r in some], dim=1), resamples, generator)
        for reading, column in zip(some, means.T, strict=True):
            value = float(reading.values.mean())
            interval = percentile_interval(value, column)
            intervals[id(reading)] = (
                interval,
                bootstrap_p_value(value, column) if reading.paired and not reading.untested else math.nan,
            )
    rows = [_row(reading, intervals.get(id(reading))) for reading in readings]
    families: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not math.isnan(row["p_value"]):
            families[row["quantity"], row["statistics"]].append(row)
    for family in families.values():
        adjusted = holm(torch.tensor([row["p_value"] for row in family], dtype=torch.float64))
        for row, p_value in zip(family, adjusted.tolist(), strict=True):
            row["p_holm"] = p_value
    return rows


def _row(reading: Reading, bootstrap: tuple[Estimate, float] | None) -> dict[str, Any]:
    values = reading.values
    examples = len(values)
    row = reading.row | {"p_value": math.nan, "p_holm": math.nan, "n": examples, "status": "ok"}
    if not bool(values.isfinite().all()):
        bad = int((~values.isfinite()).sum())
        told = f"{bad} of {examples} examples have no finite value"
        return row | _columns(Estimate(math.nan, math.nan, math.nan)) | _undefined(row, told)
    row |= _because(row, reading.untested)
    if reading.binary and reading.paired:
        lost, gained = int((values == 1).sum()), int((values == -1).sum())
        row["p_value"] = mcnemar(lost, gained)
        return row | _columns(paired_difference(lost, gained, examples))
    if reading.binary:
        return row | _columns(wilson(int(values.sum()), examples))
    if bootstrap is None:
        only = Estimate(float(values.mean()), math.nan, math.nan)
        return row | _columns(only) | _because(row, "one example has no spread")
    estimate, row["p_value"] = bootstrap
    row |= _columns(estimate)
    if examples < BOOTSTRAP_EXAMPLES:
        return row | _because(row, _FEW_PAIRED if reading.paired and not reading.untested else _FEW)
    return row


def _columns(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _undefined(row: dict[str, Any], why: str) -> dict[str, Any]:
    return {"status": "undefined"} | _because(row, why)


def _because(row: dict[str, Any], why: str) -> dict[str, Any]:
    return {"reason": "; ".join(part for part in (row["reason"], why) if part)}
