"""Does the order of the blocks matter? Error after swapping, reversing, repeating or averaging them."""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradscope.problem import Problem, as_problem
from gradscope.progress import progress
from gradscope.studies.deployed import deployed
from gradscope.studies.lesions.bench import Bench
from gradscope.studies.lesions.cost import seconds_an_example
from gradscope.studies.lesions.estimates import Reading, estimated
from gradscope.studies.lesions.passes import FullPasses
from gradscope.studies.lesions.plan import INTACT, Closed
from gradscope.studies.lesions.run import with_chance
from gradscope.studies.reordering.orders import kendall_tau
from gradscope.studies.reordering.rearrangements import Arrangement, Blocks, blocks_of, identity, planned

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [
    *("quantity", "unit", "statistics", "intervention", "swaps", "draw", "index", "blocks"),
    *("group", "kendall_tau"),
    *("value", "low", "high", "p_value", "p_holm", "n", "status", "reason"),
]


def reordering_study(
    problem: Any,
    *,
    groups: Sequence[Sequence[str]] | None = None,
    swaps: Sequence[int] | None = None,
    draws: int = 30,
    neighbours: bool = True,
    interventions: Sequence[str] = (),
    ends: int = 1,
    loops: int = 3,
    metric: Any = "error",
    calibration: Any = None,
    recalibrate: bool | str = "half",
    resamples: int = 10_000,
    seed: int = 0,
    dry_run: bool = False,
    show: bool | None = None,
) -> "pd.DataFrame":
    """How a network does when its blocks run in another order than they were trained in.

    Blocks change places within groups of equal shape only; all measurements are on the same examples. In a
    network with batch normalisation the stored statistics are those of the order it was trained in, and
    much of the harm is that mismatch, so each is measured with re-estimated statistics too.

    Args:
        problem: Problem or (model, data).
        groups: Names of modules that run one after the other and can change places, a list for each group.
            None: those that `interchangeable` finds.
        swaps: Numbers of pairs exchanged one after the other, each drawn from all pairs within groups. None: up
            to eight from 1 to the number of blocks in groups, evenly on a logarithmic scale; of a single pair,
            which an even number of exchanges leaves as it was, odd ones only.
        draws: Random orders for each number. Those that come out as the order trained in are drawn again.
        neighbours: Whether to exchange every two neighbours too.
        interventions: Any of `reverse`, `random order` (`draws` of them), `middle repeat`, `parallel`,
            `looped parallel`, `skip`, done to the middle of all groups at once.
        ends: Blocks at either end of a group that these leave alone.
        loops: Rounds of `looped parallel`.
        metric: As in `lesion_study`: `error`, `loss`, `margin`, `kl`, a function, or several.
        calibration: As in `lesion_study`: inputs for the statistics; None for the problem's own.
        recalibrate: Whether to measure with re-estimated statistics too; `half`: at half of the draws.
        resamples: Bootstrap draws of examples, for metrics other than the error.
        seed: Of the random orders and the bootstrap.
        dry_run: Whether to tell the cost only: a frame with `intervention`, `statistics`, `measurements`, `passes`,
            `seconds` (from one timed pass).
        show: Progress, as in `progress`; False also keeps the cost to itself.

    Returns:
        Frame with columns `quantity`, `unit`, `statistics` (`stale`: stored ones; `recalibrated`; `batch`, `none`:
        as in `lesion_study`), `intervention`, `swaps` (-1 where none are counted), `draw`, `index` (of the first
        of two neighbours among all blocks), `blocks` (what runs elsewhere: `a at b, b at a`; of what is repeated,
        averaged or skipped, the blocks concerned), `group`, `kendall_tau` (global: over all blocks, of which those
        in no group stay in place; a layer without a residual sum is a block only if it is in a group, so in a plain
        network those in groups are all; NaN where blocks are repeated, averaged or skipped), `value`, `low`,
        `high` (95 % over examples), `p_value`, `p_holm`, `n`, `status`, `reason`. Quantities, with the metric's name
        for `error`:

        - `intact_error`, `chance_error` (of always naming the largest class);
        - `error`, a row for each order and treatment of the statistics;
        - `error_difference`: the difference from the intact network on the same examples, for what is not
          drawn at random; `p_value` exact McNemar (other metrics: paired bootstrap, with a `reason` below
          30 examples; `kl`: none, as in `lesion_study`), `p_holm` over all of them;
        - `kendall_tau`: within each group, a row for each order and `group` (from 0); `n` counts its blocks.

    Raises:
        ValueError: No two blocks that could change places; groups, numbers or interventions that do not fit,
            such as swaps that can only undo each other;
            stored statistics that were never updated.

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 5b; neighbours: Lad et al. (2024), arXiv:2406.19384;
        interventions: Sun et al. (2025), arXiv:2407.09298.
    """
    import pandas as pd

    problem = as_problem(problem)
    if not isinstance(resamples, int) or resamples < 2:
        raise ValueError(f"resamples is a whole number, at least 2, got {resamples!r}.")
    with deployed(problem, "reordering_study"):
        blocks = blocks_of(problem, groups)
        plan = [
            identity(blocks),
            *planned(
                blocks,
                swaps=swaps,
                draws=draws,
                neighbours=neighbours,
                interventions=interventions,
                ends=ends,
                loops=loops,
                recalibrate=recalibrate,
                seed=seed,
            ),
        ]
        study = _Study(problem, blocks, plan, metric, calibration, bool(recalibrate))
        if dry_run:
            return study.cost()
        if show is not False:
            _announce(study.cost())
        readings = study.readings(show)
    rows = with_chance(estimated(readings, resamples, seed), study.bench)
    return pd.DataFrame([*rows, *study.rows_of_groups()], columns=COLUMNS)


class _Study:
    """Runs arrangements on a bench; the first is the network as it is, and equal ones run once."""

    def __init__(
        self,
        problem: Problem,
        blocks: Blocks,
        plan: list[Arrangement],
        metric: Any,
        calibration: Any,
        recalibrate: bool,
    ) -> None:
        self.blocks = blocks
        self.plan = plan
        first: dict[Any, int] = {}
        self.runs = [first.setdefault(one.what_runs, place) for place, one in enumerate(plan)]
        self.bench = Bench(problem, metric, calibration, recalibrate, 1)
        self.passes = FullPasses(
            problem.model,
            problem.outputs,
            1,
            # The network as it is runs through the same gate, so that it takes the same kernels.
            lambda closed: plan[closed[0] if closed else 0].gate(problem.model, blocks),
            "blocks change places",
        )

    def rows_with(self, statistics: str) -> list[int]:
        """Places in the plan that are measured with these statistics."""
        return [i for i, one in enumerate(self.plan) if one.recalibrated or statistics != "recalibrated"]

    def measured_with(self, statistics: str) -> dict[Closed, str]:
        """What runs with these statistics, and for which intervention first; the bench knows it by its place."""
        named: dict[Closed, str] = {}
        for i in self.rows_with(statistics):
            named.setdefault(_key(self.runs[i]), self.plan[i].intervention or "intact")
        return named

    def cost(self) -> "pd.DataFrame":
        import pandas as pd

        seconds = seconds_an_example(self.bench.problem, self.passes.gate)
        rows = []
        for statistics in self.bench.statistics:
            named = self.measured_with(statistics)
            for kind in dict.fromkeys(named.values()):
                several = [closed for closed, own in named.items() if own == kind]
                work = self.bench.work(self.passes, several, statistics)
                rows.append((kind, statistics, len(several), work.passes, work.examples * seconds))
        return pd.DataFrame(rows, columns=["intervention", "statistics", "measurements", "passes", "seconds"])

    def readings(self, show: bool | None) -> list[Reading]:
        wanted = {statistics: list(self.measured_with(statistics)) for statistics in self.bench.statistics}
        steps = (sum(map(len, wanted.values())) - len(wanted)) * len(self.bench.batches)
        with progress("orders of blocks", steps, show=show) as advance:
            found = {
                statistics: self.bench.measured(self.passes, several, statistics, advance)
                for statistics, several in wanted.items()
            }
        readings = []
        for place, metric in enumerate(self.bench.metrics):
            binary = metric.counts
            for statistics, measured in found.items():
                intact = measured[INTACT][place]
                for i in self.rows_with(statistics):
                    values = measured[_key(self.runs[i])][place]
                    row = self._row(
                        self.plan[i], statistics, metric.name if i else f"intact_{metric.name}", metric.unit
                    )
                    readings.append(Reading(row, values, binary, False))
                    if i and self.plan[i].draw < 0:
                        difference = row | {"quantity": f"{metric.name}_difference"}
                        readings.append(Reading(difference, values - intact, binary, True, metric.untested))
        return readings

    def rows_of_groups(self) -> list[dict[str, Any]]:
        """How far each order is from the one trained in, within each group."""
        rows = []
        nothing = {"low": math.nan, "high": math.nan, "p_value": math.nan, "p_holm": math.nan}
        for one in self.plan[1:]:
            if (order := one.order) is None:
                continue
            for number, group in enumerate(self.blocks.groups):
                tau = kendall_tau([order[place] for place in group])
                row = self._row(one, "", "kendall_tau", "1") | {"group": number}
                rows.append(row | nothing | {"value": tau, "n": len(group), "status": "ok"})
        return rows

    def _row(self, one: Arrangement, statistics: str, quantity: str, unit: str) -> dict[str, Any]:
        renewed = statistics == "recalibrated"
        return {
            "quantity": quantity,
            "unit": unit,
            "statistics": statistics,
            "intervention": one.intervention,
            "swaps": one.swaps,
            "draw": one.draw,
            "index": one.index,
            "blocks": one.moved(self.blocks),
            "group": -1,
            "kendall_tau": math.nan if one.order is None else kendall_tau(one.order),
            "reason": self.bench.reason if renewed else "",
        }


def _key(run: int) -> Closed:
    return (run,) if run else INTACT


def _announce(cost: "pd.DataFrame") -> None:
    measurements, passes, seconds = (cost[column].sum() for column in ("measurements", "passes", "seconds"))
    print(
        f"reordering study: {measurements:.0f} measurements, {passes:.0f} forward passes, "
        f"about {max(1, seconds):.0f} s",
        file=sys.stderr,
        flush=True,
    )
