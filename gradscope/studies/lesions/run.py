"""A planned lesion study: its cost, and its frame."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from gradscope.instruments.junctions.junction import Junction
from gradscope.studies.lesions.bench import Bench, Passes, Values, Work
from gradscope.studies.lesions.cost import Part
from gradscope.studies.lesions.estimates import Reading, estimated
from gradscope.studies.lesions.plan import INTACT, Closed, Lesion, indices_of
from gradscope.studies.lesions.search import greedy_removal, search_work

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("quantity", "unit", "statistics", "gate", "junction", "kind", "index", "deleted", "draw", "passes"),
    *("value", "low", "high", "p_value", "p_holm", "n", "status", "reason"),
)
Advance = Callable[[int], None]


class Study:
    """Lesions known beforehand are run together, so that they can share work; greedy removal comes after.

    Args:
        bench: What is measured.
        passes: How lesions are run.
        plan: The intact network first.
        greedy: So many branches are removed greedily.
        junctions: Those that `Lesion.closed` counts, for the names of what is removed.
        gate: What is put in a branch's place, for the column of that name.
    """

    def __init__(
        self,
        bench: Bench,
        passes: Passes,
        plan: list[Lesion],
        greedy: int,
        junctions: Sequence[Junction],
        gate: str,
    ) -> None:
        self.bench, self.passes, self.plan = bench, passes, plan
        self.greedy, self.junctions, self.gate = greedy, junctions, gate
        self.singles_known = any(lesion.part == "single" for lesion in plan)
        self.renewed = "recalibrated" in bench.statistics

    def rows(self, advance: Advance, resamples: int, seed: int) -> list[dict[str, Any]]:
        """Every row of the frame, measured."""
        values = {
            statistics: self.bench.measured(self.passes, self._distinct(statistics), statistics, advance)
            for statistics in self.bench.statistics
        }
        readings = [
            reading
            for lesion in self.plan
            for statistics in self._treatments(lesion)
            for reading in self._readings(lesion, statistics, values[statistics])
        ]
        if self.greedy:
            readings += self._removed(values, advance)
        # Only now is it known whether batches took another way.
        rows = [row | {"passes": self.passes.name} for row in estimated(readings, resamples, seed)]
        return with_chance(rows, self.bench)

    def parts(self) -> list[Part]:
        """What each part adds to the cost of those before it."""
        told = []
        for statistics in self.bench.statistics:
            before, spent = [], Work(0.0, 0.0)
            for part in dict.fromkeys(lesion.part for lesion in self.plan):
                rows = [x for x in self.plan if x.part == part and statistics in self._treatments(x)]
                before += [lesion.closed for lesion in rows]
                total = self.bench.work(self.passes, list(dict.fromkeys(before)), statistics)
                work = Work(total.passes - spent.passes, total.examples - spent.examples)
                told.append(Part(part, statistics, len(rows), work, self.passes.name))
                spent = total
        if self.greedy:
            work = search_work(self.bench, self.passes, self.greedy, self.singles_known)
            told.append(Part("greedy", self.bench.statistics[0], self.greedy, work, self.passes.name))
        if self.greedy and self.renewed:
            like = [(place,) for place in range(self.greedy)]
            work = self.bench.work(self.passes, like, "recalibrated")
            told.append(Part("greedy", "recalibrated", self.greedy, work, self.passes.name))
        return told

    def steps(self) -> int:
        """How often `advance(1)` will be called."""
        measured = [self._distinct(statistics) for statistics in self.bench.statistics]
        measured += [
            [(place,) for place in range(self.bench.branches - step)]
            for step in range(1 if self.singles_known else 0, self.greedy)
        ]
        if self.greedy and self.renewed:
            measured.append([(place,) for place in range(self.greedy)])
        outputs = sum(len(run) for closed in measured for run in self.bench.runs(closed))
        return outputs * len(self.bench.batches)

    def _treatments(self, lesion: Lesion) -> list[str]:
        return [s for s in self.bench.statistics if lesion.recalibrated or s != "recalibrated"]

    def _distinct(self, statistics: str) -> list[Closed]:
        return list(dict.fromkeys(x.closed for x in self.plan if statistics in self._treatments(x)))

    def _removed(self, values: dict[str, Values], advance: Advance) -> list[Reading]:
        stored = self.bench.statistics[0]
        known: Values = {}
        if self.singles_known:
            known = {closed: rows for closed, rows in values[stored].items() if len(closed) == 1}
        path = greedy_removal(self.bench, self.passes, self.greedy, known, advance)
        found = {stored: {closed: rows for _, closed, rows in path}}
        if self.renewed:
            closed = [closed for _, closed, _ in path]
            found["recalibrated"] = self.bench.measured(self.passes, closed, "recalibrated", advance)
        indices = indices_of(self.junctions)
        return [
            reading
            for place, closed, _ in path
            for statistics, rows in found.items()
            for reading in self._readings(
                Lesion("greedy", closed, self.junctions[place].name, "greedy", indices[place], 0, True),
                statistics,
                rows,
            )
        ]

    def _readings(self, lesion: Lesion, statistics: str, values: Values) -> list[Reading]:
        reasons = [
            self.bench.reason if statistics == "recalibrated" else "",
            "chosen on the same examples" if lesion.part == "greedy" else "",
        ]
        labels: dict[str, Any] = {
            **{"statistics": statistics, "gate": "" if lesion.part == "intact" else self.gate},
            **{"junction": lesion.junction, "kind": lesion.kind, "index": lesion.index},
            **{"deleted": len(lesion.closed), "draw": lesion.draw},
            "reason": "; ".join(reason for reason in reasons if reason),
        }
        readings = []
        for place, metric in enumerate(self.bench.metrics):
            name = f"intact_{metric.name}" if lesion.part == "intact" else metric.name
            row = {"quantity": name, "unit": metric.unit} | labels
            mine = values[lesion.closed][place]
            readings.append(Reading(row, mine, metric.counts, paired=False))
            if lesion.part == "single":
                change = mine - values[INTACT][place]
                changed = row | {"quantity": f"{metric.name}_difference"}
                readings.append(Reading(changed, change, metric.counts, True, metric.untested))
        return readings


def with_chance(rows: list[dict[str, Any]], bench: Bench) -> list[dict[str, Any]]:
    """After the intact rows, the error of always naming the largest class, where errors are counted."""
    if not any(metric.counts for metric in bench.metrics):
        return rows
    labels = torch.cat([target for target in bench.targets if target is not None])
    last = max(place for place, row in enumerate(rows) if row["quantity"] == "intact_error")
    chance = 1 - int(torch.bincount(labels).max()) / len(labels)
    known = {"value": chance, "passes": "", "status": "ok", "reason": ""}
    row = rows[last] | {"statistics": bench.statistics[0]} | known
    return [
        *rows[: last + 1],
        row | {"quantity": "chance_error", "low": math.nan, "high": math.nan},
        *rows[last + 1 :],
    ]


def framed(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS))
