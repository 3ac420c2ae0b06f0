"""The rows of one Gram matrix: values with intervals, or why there are none."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradscope.measures.correlation import Estimate
from gradscope.measures.gram_jackknife import NORMAL_97
from gradscope.measures.gram_stiffness import (
    class_stiffness,
    cosine_distances,
    dynamical_critical_length,
    stiffness_by_distance,
)
from gradscope.measures.gram_white_noise import simulated_white_stable_rank, white_stable_rank
from gradscope.studies.agreement.readings import LABELS, READ, WIDTH, Gram

NO_LABELS = "the targets are not one class number for each example"
ALL_IGNORED = "every label is -100, which losses leave out"
NO_WIDTH = "the number of coordinates of one example's gradient is unknown"
NOT_REACHED = "the stiffness stays above 0 at every distance"
AT_ONCE = "the stiffness is not above 0 in the first bin already"


class Options(NamedTuple):
    """What the rows of every Gram have in common."""

    labels: Tensor | None
    inputs: Any
    by: tuple[str, ...]
    bins: int
    white_draws: int
    seed: int


def gram_rows(
    products: Tensor,
    log_norms: Tensor | None,
    gradient: str,
    width: int,
    where: dict[str, Any],
    options: Options,
) -> list[dict[str, Any]]:
    """Every quantity of one Gram matrix.

    Args:
        products: [B, B].
        log_norms: Natural logarithm of each gradient's norm, [B]; tells a zero gradient from one whose square is zero.
        gradient: `parameter`, `output`, `forward` or `backward`.
        width: Coordinates of one example's gradient, 0 where unknown.
        where: The columns that say where.
        options: As asked.
    """
    products = products.detach().cpu().double()
    diagonal = products.diagonal()
    zero = diagonal == 0 if log_norms is None else log_norms.detach().cpu() == -math.inf
    shared = where | {"gradient": gradient, "n": int((~zero).sum()), "n_zero": int(zero.sum())}
    reason = _nothing_to_read(products, zero)
    white = _white(len(products), width, options.white_draws, options.seed)
    gram = Gram(products, options.labels, white)
    lacking = {
        LABELS: NO_LABELS if gram.labels is None else "",
        WIDTH: NO_WIDTH if gram.white is None else "",
    }
    rows = []
    for quantity, reading in READ[gradient].items():
        row = shared | {"quantity": quantity, "unit": reading.unit}
        missing = lacking.get(reading.needs, "")
        if missing or reason:
            rows.append(row | without_value("skipped" if missing else "undefined", missing or reason))
        else:
            row |= with_value(reading.read(gram), reading.undefined, reading.interval)
            uneven = reading.by_norms and gram.effective_examples < len(products) / 2
            if uneven and not math.isnan(row["low"]):
                row["reason"] = (
                    f"the norms are as uneven as if {gram.effective_examples:.3g} of {len(products)} examples counted: "
                    "the interval holds the truth less often than 95 times in 100"
                )
            rows.append(row)
    if gradient == "parameter" and not reason:
        rows += _by_class(gram, shared) if "class" in options.by else []
        rows += _by_distance(gram, shared, options) if "distance" in options.by else []
    return rows


def with_value(estimate: Estimate, undefined: str, interval: str = "") -> dict[str, Any]:
    """The columns of a value: `undefined` is the reason for one that is not finite, `interval` for missing ends."""
    if not math.isfinite(estimate.value):
        return without_value("undefined", undefined)
    return {**estimate._asdict(), "status": "ok", "reason": interval if math.isnan(estimate.low) else ""}


def without_value(status: str, reason: str) -> dict[str, Any]:
    """The columns of a value that there is not."""
    return {"value": math.nan, "low": math.nan, "high": math.nan, "status": status, "reason": reason}


def _nothing_to_read(products: Tensor, zero: Tensor) -> str:
    if not bool(torch.isfinite(products).all()):
        return "a gradient or its square is infinite or NaN"
    hidden = int(((products.diagonal() < torch.finfo(torch.float64).tiny) & ~zero).sum())
    if hidden:
        return f"the squared norms of {hidden} gradients are below the smallest float64"
    kept = int((~zero).sum())
    return f"{kept} examples have a non-zero gradient" if kept < 2 else ""


@lru_cache(maxsize=256)
def _white(examples: int, width: int, draws: int, seed: int) -> Estimate | None:
    if width < 1:
        return None
    if draws < 1:
        return Estimate(white_stable_rank(examples, width), math.nan, math.nan)
    drawn = simulated_white_stable_rank(examples, width, draws, torch.Generator().manual_seed(seed))
    mean = float(drawn.mean())
    if draws < 2:
        return Estimate(mean, math.nan, math.nan)
    error = NORMAL_97 * float(drawn.std()) / math.sqrt(draws)
    return Estimate(mean, mean - error, mean + error)


def _by_class(gram: Gram, shared: dict[str, Any]) -> list[dict[str, Any]]:
    row = shared | {"quantity": "class_cosine", "unit": "1"}
    if gram.labels is None:
        return [row | without_value("skipped", NO_LABELS)]
    kept = gram.labelled
    if not len(kept):
        return [row | without_value("skipped", ALL_IGNORED)]
    classes, means = class_stiffness(gram.cosines[kept][:, kept], gram.labels[kept])
    return [
        row
        | {"class": int(classes[i]), "other_class": int(classes[j])}
        | with_value(Estimate(float(means[i, j]), math.nan, math.nan), "no pair of these classes")
        for i in range(len(classes))
        for j in range(i, len(classes))
    ]


def _by_distance(gram: Gram, shared: dict[str, Any], options: Options) -> list[dict[str, Any]]:
    found = stiffness_by_distance(gram.cosines, cosine_distances(options.inputs.cpu()), options.bins)
    rows = [
        shared
        | {"quantity": "stiffness_at_distance", "unit": "1", "distance": float(distance)}
        | with_value(Estimate(float(value), math.nan, math.nan), "no pair is in this bin")
        for distance, value in zip(found.distance, found.stiffness, strict=True)
    ]
    length = float(dynamical_critical_length(found.distance, found.stiffness))
    first = found.stiffness[~found.stiffness.isnan()][:1]
    why = AT_ONCE if len(first) and float(first) <= 0 else NOT_REACHED
    row = shared | {"quantity": "dynamical_critical_length", "unit": "1 - cosine of inputs"}
    return [*rows, row | with_value(Estimate(length, math.nan, math.nan), why)]
