"""What a lesion study will cost, from one timed forward pass, before it begins."""

import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradscope.problem import Problem, examples_in
from gradscope.studies.lesions.bench import Work
from gradscope.studies.lesions.passes import Gate

if TYPE_CHECKING:
    import pandas as pd


class Part(NamedTuple):
    """One part of a study with one treatment of the statistics.

    Attributes:
        part: `intact`, `single`, `set`, `group` or `greedy`.
        statistics: As in the study's frame.
        lesions: How many rows of each metric it makes.
        work: What it adds to the parts before it, which may have run the same lesion already.
        passes: How it is run.
    """

    part: str
    statistics: str
    lesions: int
    work: Work
    passes: str


def seconds_an_example(problem: Problem, gate: Gate) -> float:
    """Seconds of a forward pass for each example of the first batch."""
    inputs, _ = problem.first_batch()
    with torch.no_grad(), gate(()):
        _wait(problem)
        began = time.perf_counter()
        problem.outputs(inputs)
        _wait(problem)
    return (time.perf_counter() - began) / examples_in(inputs)


def cost_frame(parts: list[Part], branches: int, seconds: float) -> "pd.DataFrame":
    """A row for each part: `part`, `statistics`, `lesions`, `passes`, `branch_evaluations`, `seconds`, `how`."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "part": part.part,
            "statistics": part.statistics,
            "lesions": part.lesions,
            "passes": part.work.passes,
            "branch_evaluations": round(part.work.passes * branches),
            "seconds": part.work.examples * seconds,
            "how": part.passes,
        }
        for part in parts
    ]
    return pd.DataFrame(rows)


def announce(parts: list[Part], seconds: float) -> None:
    """One line on standard error."""
    total = sum(part.work.examples for part in parts) * seconds
    passes = sum(part.work.passes for part in parts)
    how = " and ".join(dict.fromkeys(part.passes.partition(":")[0] for part in parts))
    print(
        f"lesion study: {sum(part.lesions for part in parts)} measurements, {passes:.0f} forward passes ({how}), "
        f"about {_legible(total)}",
        file=sys.stderr,
        flush=True,
    )


def _legible(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _wait(problem: Problem) -> None:
    if problem.device.type == "cuda":
        torch.cuda.synchronize(problem.device)
