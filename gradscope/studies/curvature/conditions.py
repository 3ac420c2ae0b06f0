"""Condition numbers by name, and the outliers, from what a measurement already knows of a spectrum."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gradscope.curvature.bulk_edge import bulk_edge_ratio
from gradscope.curvature.condition import evaluate
from gradscope.curvature.condition_evidence import RANKS, Evidence, confirmed
from gradscope.curvature.eigenvalues import eigenvalue_frame
from gradscope.studies.curvature.extremes import Extremes
from gradscope.studies.curvature.rows import reading

Rows = list[dict[str, Any]]

NOT_FORMED = "needs all eigenvalues, and the matrix was not formed; kappa_lower bounds it from below"


def of_spectrum(spectrum: Tensor, dtype: torch.dtype) -> Evidence:
    """What all eigenvalues tell, ascending, [P], whose products ran in `dtype`."""
    return Evidence(spectrum.cpu().double().numpy(), torch.finfo(dtype).eps)


def of_lanczos(found: Extremes, tolerance: float) -> Evidence:
    """What a run tells that was made for the outermost eigenvalues; of those, what a second start confirmed."""
    further = eigenvalue_frame(found.run, RANKS, "both", tolerance)
    return Evidence(frame=confirmed(further, found.frame), run=found.run, why_not_all=NOT_FORMED)


def undecayed(evidence: Evidence, weight_decay: float) -> Evidence:
    """The same without the weight decay on the diagonal; nothing of the run."""
    if evidence.spectrum is not None:
        return Evidence(evidence.spectrum - weight_decay, evidence.eps)
    if evidence.frame is None:
        return Evidence()
    frame = evidence.frame.copy()
    frame[["value", "low", "high"]] -= weight_decay
    return Evidence(frame=frame)


def condition_rows(
    evidence: Evidence, definitions: Iterable[str], rate: float | None = None, damping: float | None = None
) -> Rows:
    """One row of `condition_number` for each definition."""
    return [
        reading("condition_number", **vars(evaluate(name, evidence, rate, damping)), definition=name)
        for name in definitions
    ]


def outlier_row(evidence: Evidence) -> dict[str, Any]:
    """How many eigenvalues lie above the edge of the bulk, by the rule of `bulk_edge_ratio`."""
    found, top = bulk_edge_ratio(evidence), evidence.ranked(1)
    if math.isnan(found.value) or top is None:
        return reading("outliers", math.nan, "eigenvalues", reason=found.reason)
    ranked = (evidence.ranked(rank) for rank in range(1, RANKS + 1))
    # Above the edge is a gap of a factor 2 at least.
    above = 1.5 * top.value / found.value
    count = sum(value is not None and value.converged and value.value > above for value in ranked)
    return reading("outliers", count, "eigenvalues", low=count, high=count, reason=found.reason)
