"""What a refinement study has heard so far, and the rows that come of it."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from gradscope.instruments.junctions import Junction
from gradscope.instruments.stages import Stages
from gradscope.measures.correlation import Estimate
from gradscope.measures.intervals import wilson
from gradscope.measures.refinement import estimation_error
from gradscope.studies.refinement.averages import Average, GroupedSums, RatioOfMeans

ERRORS = ("estimation_error_mean", "estimation_error_spread", "estimation_error_rms")
UNITS = {
    "branch_norm": "activation",
    "stream_norm": "activation",
    "l2_ratio": "1",
    "block_influence": "1",
    "angular_distance": "half turns",
    **dict.fromkeys(ERRORS, "activation"),
    "cosine_with_loss_gradient": "1",
    "first_order_lesion": "loss",
    "lesion_loss_change": "loss",
    "first_order_ratio": "1",
    "early_exit_accuracy": "share of examples",
    "lens_loss": "loss",
    "lens_kl_to_output": "nat",
    "lens_agreement": "share of outputs",
}
LESIONS = ("lesion_loss_change", "first_order_ratio")
LENSES = ("early_exit_accuracy", "lens_loss", "lens_kl_to_output", "lens_agreement")
WITH_LOSS = ("cosine_with_loss_gradient", "first_order_lesion", *LESIONS, "early_exit_accuracy", "lens_loss")
COLUMNS = [
    *("quantity", "unit", "junction", "kind", "stage", "position", "index", "other_index", "deleted"),
    *("value", "low", "high", "n", "status", "reason"),
]
_ZERO = {
    "l2_ratio": "the stream is exactly zero or not a number",
    "cosine_with_loss_gradient": "the branch or the gradient is exactly zero or not a number, so it has no direction",
    "block_influence": "a state is exactly zero or not a number, so it has no direction",
    "angular_distance": "a state is exactly zero or not a number, so it has no direction",
    "early_exit_accuracy": "a logit is not a number",
    "lens_kl_to_output": "a logit is not a number",
    "lens_agreement": "a logit is not a number",
}
Key = tuple[str, int, int]


class Ledger:
    """Averages by quantity and junction.

    Junctions are known by their place among those studied; to a lens, the state that enters the last stage
    has the place before the stage's first junction.
    """

    def __init__(self, junctions: Sequence[Junction], stages: Stages, examples: int) -> None:
        self.junctions = junctions
        self.stages = stages
        self.averages: dict[Key, Average] = defaultdict(Average)
        self.ratios: dict[Key, RatioOfMeans] = defaultdict(RatioOfMeans)
        self.differences: dict[int, GroupedSums] = defaultdict(lambda: GroupedSums(examples))
        self.blanks: dict[Key, str] = {}

    def add(self, quantity: str, place: int, values: Tensor, other: int = -1) -> None:
        self.averages[quantity, place, other].add(values)

    def add_ratio(self, quantity: str, place: int, above: Tensor, below: Tensor) -> None:
        self.ratios[quantity, place, -1].add(above, below)

    def blank(self, quantity: str, place: int, reason: str) -> None:
        """A row without a value, which says why."""
        self.blanks[quantity, place, -1] = reason

    def rows(self, wanted: Sequence[str]) -> list[dict[str, Any]]:
        """One row per value, by quantity and then in forward order."""
        rows = {key: self._average_row(key, average) for key, average in self.averages.items()}
        rows |= {key: self._ratio_row(key, ratio) for key, ratio in self.ratios.items()}
        rows |= {key: self._row(key, _NOTHING, 0, reason) for key, reason in self.blanks.items()}
        for place, sums in self.differences.items():
            for quantity, estimate in zip(ERRORS, sums.estimates(estimation_error), strict=True):
                rows[quantity, place, -1] = self._row((quantity, place, -1), estimate, sums.n)
        order = {quantity: rank for rank, quantity in enumerate(wanted)}
        kept: Iterable[Key] = (key for key in rows if key[0] in order)
        return [rows[key] for key in sorted(kept, key=lambda key: (order[key[0]], *key[1:]))]

    def _average_row(self, key: Key, average: Average) -> dict[str, Any]:
        estimate, reason = average.estimate(), ""
        if key[0] == "early_exit_accuracy":
            estimate = wilson(round(average.mean * average.n), average.n)
        if average.undefined:
            reason = _left_out(average, _ZERO.get(key[0], "not a number"))
        return self._row(key, estimate, average.n, reason)

    def _ratio_row(self, key: Key, ratio: RatioOfMeans) -> dict[str, Any]:
        estimate, reason = ratio.estimate(), ""
        measured = self.averages["lesion_loss_change", key[1], -1].estimate()
        if ratio.n and ratio.sums[1] == 0:
            reason = "the measured change is exactly zero"
        elif measured.low <= 0 <= measured.high:
            reason = "the measured change does not differ from zero at 95 %"
        if ratio.undefined:
            told = _left_out(ratio, "a change is not a number")
            reason = f"{told}; {reason}" if reason else told
        return self._row(key, estimate, ratio.n, reason)

    def _row(self, key: Key, estimate: Estimate, n: int, reason: str = "") -> dict[str, Any]:
        quantity, place, other = key
        defined = math.isfinite(estimate.value)
        if defined and n == 1 and not reason:
            reason = "one example gives no interval"
        return {
            "quantity": quantity,
            "unit": UNITS[quantity],
            **self._labels(quantity, place),
            "other_index": self.junctions[other].index if other >= 0 else -1,
            "deleted": ",".join(str(self.junctions[p].index) for p in self._between(place, other)),
            **estimate._asdict(),
            "n": n,
            "status": "ok" if defined else "undefined",
            "reason": reason if defined else reason or "not finite",
        }

    def _between(self, first: int, last: int) -> list[int]:
        """Places of the junctions of a stage from one to another, also of those that are not reported."""
        return [place for place in self.stages.members(self.stages.stage[first]) if first <= place <= last]

    def _labels(self, quantity: str, place: int) -> dict[str, Any]:
        first = self.stages.members(self.stages.last)[0]
        if quantity in LENSES and place < first:
            return {
                "junction": "",
                "kind": "input",
                "stage": self.stages.stage[first],
                "position": 0,
                "index": self.junctions[first].index - 1,
            }
        junction, stage = self.junctions[place], self.stages.stage[place]
        return {
            "junction": junction.name,
            "kind": junction.kind,
            "stage": stage,
            "position": self.stages.members(stage).index(place) + 1,
            "index": junction.index,
        }


def _left_out(counted: Average | RatioOfMeans, why: str) -> str:
    return f"undefined for {counted.undefined} of {counted.n + counted.undefined} examples: {why}"


_NOTHING = Estimate(math.nan, math.nan, math.nan)
