"""What does a plain network lose with each of its layers? The control of lesion studies."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.instruments.gates import bypass
from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.sites import sites
from gradscope.problem import Problem, as_problem
from gradscope.progress import progress
from gradscope.studies.lesions.bench import Bench, evaluated
from gradscope.studies.lesions.cost import announce, cost_frame, seconds_an_example
from gradscope.studies.lesions.passes import FullPasses
from gradscope.studies.lesions.plan import Closed, Lesion, intact_network
from gradscope.studies.lesions.run import Study, framed

if TYPE_CHECKING:
    import pandas as pd


def layer_lesion_study(
    problem: Any,
    *,
    at: str | Sequence[str] = "blocks.*",
    metric: Any = "error",
    calibration: Any = None,
    recalibrate: bool = True,
    resamples: int = 10_000,
    seed: int = 0,
    dry_run: bool = False,
    show: bool | None = None,
) -> "pd.DataFrame":
    """What a plain network loses when each layer is replaced by the identity, where shapes allow.

    The control of Veit et al. (2016) for a network without skips. Frame, intervals and tests as in
    `lesion_study`, with `kind` `layer` and `gate` `identity`; a layer that changes the shape is a row with
    `status` `skipped`.

    Args:
        problem: Problem or (model, data).
        at: The layers, as in `instruments.sites`.
        metric, calibration, resamples, seed, dry_run, show: As in `lesion_study`.
        recalibrate: Whether to measure with recalibrated batch-norm statistics too.
    """
    problem = as_problem(problem)
    with evaluated(problem):
        layers = [layer.name for layer in sites(problem.model, at)]
        kept = [_keeps_shape(problem, layer) for layer in layers]

        def gate(closed: Closed) -> Any:
            return bypass(problem.model, layers[closed[0]]) if closed else additions(problem.model)

        bench = Bench(problem, metric, calibration, recalibrate, 1)
        passes = FullPasses(problem.model, problem.outputs, 1, gate, "a plain network has no branches")
        plan = [intact_network()]
        plan += [
            Lesion("single", (place,), layer, "layer", place, -1, True)
            for place, layer in enumerate(layers)
            if kept[place]
        ]
        study = Study(bench, passes, plan, 0, [], "identity")
        if dry_run or show is not False:
            seconds = seconds_an_example(problem, gate)
            if dry_run:
                return cost_frame(study.parts(), 1, seconds)
            announce(study.parts(), seconds)
        with progress("layer lesions", study.steps(), show=show) as advance:
            measured = study.rows(advance, resamples, seed)
    skipped = [
        _skipped(bench, place, layer) | {"quantity": one.name, "unit": one.unit}
        for place, layer in enumerate(layers)
        if not kept[place]
        for one in bench.metrics
    ]
    return framed(sorted(measured + skipped, key=lambda row: row["index"]))


def _skipped(bench: Bench, place: int, layer: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("value", "low", "high", "p_value", "p_holm"), math.nan)
    labels = {"statistics": bench.statistics[0], "gate": "identity", "junction": layer, "kind": "layer"}
    where = {"index": place, "deleted": 1, "draw": -1, "passes": "", "n": bench.examples}
    return labels | where | nothing | {"status": "skipped", "reason": "the layer changes the shape"}


def _keeps_shape(problem: Problem, layer: str) -> bool:
    inputs, _ = problem.first_batch()
    try:
        with bypass(problem.model, layer), torch.no_grad():
            problem.outputs(inputs[:1] if isinstance(inputs, Tensor) else inputs)
    except ValueError:
        return False
    return True
