"""Reads metrics off many lesioned networks, on the same examples, with stale and with recalibrated statistics."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gradscope.instruments.batch_norm import batch_norm_layers
from gradscope.instruments.quiet import left_as_found
from gradscope.problem import Problem, examples_in
from gradscope.studies.lesions.metrics import metrics_of
from gradscope.studies.lesions.plan import INTACT, Closed

Values = dict[Closed, Tensor]


class Passes(Protocol):
    """A way of running lesioned networks; see `FullPasses`."""

    on_entering: tuple[int, int]

    @property
    def name(self) -> str: ...

    def evaluations(self, closed: Sequence[Closed]) -> int: ...

    def outputs(self, inputs: Any, closed: Sequence[Closed]) -> Generator[tuple[int, Tensor]]: ...

    def recalibrated_outputs(
        self, batches: Sequence[Any], calibration: Sequence[Any], closed: Sequence[Closed]
    ) -> Generator[tuple[int, int, Tensor]]: ...


class Work(NamedTuple):
    """What a measurement costs, in whole passes: as many branch evaluations as the network has branches.

    Attributes:
        passes: On one batch each.
        examples: The same, in examples.
    """

    passes: float
    examples: float


class Bench:
    """The examples, the metrics, and the ways of treating batch-norm statistics.

    Args:
        problem: All its batches are read once and kept, so that every lesion sees the same examples.
        metric: As in `lesion_study`.
        calibration: As in `lesion_study`.
        recalibrate: Whether to measure with recalibrated statistics too, where there are any.
        branches: How many branches one pass evaluates.

    Attributes:
        statistics: `stale` and maybe `recalibrated`; `batch` where batch normalisation stores none;
            `none` where there is no batch normalisation.
    """

    def __init__(
        self, problem: Problem, metric: Any, calibration: Any, recalibrate: bool, branches: int
    ) -> None:
        self.problem = problem
        self.branches = branches
        self.batches = list(problem.batches())
        self.targets = [target for _, target in self.batches]
        self.metrics = metrics_of(metric, problem, self.targets)
        self.needs_intact = any(one.needs_intact for one in self.metrics)
        self.examples = sum(examples_in(inputs) for inputs, _ in self.batches)
        self.calibration = self._calibration(calibration)
        self.reason = "calibrated on the problem's own inputs" if calibration is None else ""
        layers = batch_norm_layers(problem.model)
        stored = any(layer.track_running_stats for layer in layers)
        self.statistics: tuple[str, ...] = ("stale",) if stored else ("batch",) if layers else ("none",)
        if stored and recalibrate:
            self.statistics = ("stale", "recalibrated")

    def measured(
        self, passes: Passes, closed: Sequence[Closed], statistics: str, advance: Callable[[int], None]
    ) -> Values:
        """Every metric of every example after each lesion: {closed: [metrics, N]}."""
        parts: dict[Closed, list[Tensor]] = {
            places: [torch.empty(0)] * len(self.batches) for places in closed
        }
        reference = [torch.empty(0)] * len(self.batches)

        def read(places: Closed, batch: int, output: Tensor) -> None:
            if places == INTACT and self.needs_intact:
                reference[batch] = output
            if places in parts:
                inputs, target = self.batches[batch]
                values = [one.values(output, target, reference[batch], inputs) for one in self.metrics]
                parts[places][batch] = torch.stack(values)
            advance(1)

        inputs = [given for given, _ in self.batches]
        # Closed at once where a metric raises, so that no gate outlives the study.
        if statistics == "recalibrated":
            for run in self.runs(closed):
                with closing(passes.recalibrated_outputs(inputs, self.calibration, run)) as outputs:
                    for place, batch, output in outputs:
                        read(run[place], batch, output)
        else:
            for batch, given in enumerate(inputs):
                for run in self.runs(closed):
                    with closing(passes.outputs(given, run)) as lesioned:
                        for place, output in lesioned:
                            read(run[place], batch, output)
                # Outputs can be large: those of one batch at a time.
                reference[batch] = torch.empty(0)
        return {places: torch.cat(several, dim=1) for places, several in parts.items()}

    def runs(self, closed: Sequence[Closed]) -> list[list[Closed]]:
        """What is run together, in turn: the intact network first where a metric looks at its output."""
        lesions = [places for places in closed if places != INTACT]
        if not lesions or not self.needs_intact:
            return [list(closed)] if closed else []
        return [[INTACT], lesions]

    def work(self, passes: Passes, closed: Sequence[Closed], statistics: str) -> Work:
        """What `measured` costs."""
        batches, examples, entries = len(self.batches), self.examples, len(self.batches)
        if statistics == "recalibrated":
            batches += len(self.calibration)
            examples += sum(examples_in(inputs) for inputs in self.calibration)
            entries = 1
        evaluations = sum(passes.evaluations(run) for run in self.runs(closed))
        whole = evaluations / self.branches
        lesions = sum(places != INTACT for places in closed)
        extra = [lesions * entries * each for each in passes.on_entering]
        return Work(whole * batches + extra[0], whole * examples + extra[1])

    def _calibration(self, given: Any) -> list[Any]:
        if given is None:
            return [inputs for inputs, _ in self.batches]
        if isinstance(given, tuple):
            # Inputs and labels, as data is written elsewhere.
            if len(given) != 2:
                raise ValueError(
                    f"calibration is inputs [N, ...], (inputs, labels), a dict batch, or a list of batches, got a "
                    f"tuple of {len(given)}. Write a list if these are batches."
                )
            given = given[0]
        if isinstance(given, Tensor):
            given = given.split(256)
        elif isinstance(given, Mapping) or not isinstance(given, Iterable):
            given = [given]
        placed = [batch for part in given for batch, _ in Problem(self.problem.model, [part]).batches()]
        if not placed:
            raise ValueError("calibration has no inputs. Pass inputs [N, ...], or leave it out.")
        return placed


@contextmanager
def evaluated(problem: Problem) -> Iterator[None]:
    """Eval mode with stored statistics, as a deployed network runs; refused while they are fresh."""
    if problem.batch_norm not in ("auto", "running"):
        raise ValueError(
            f"A lesion study runs the network as deployed, with stored statistics and with recalibrated ones, so "
            f"batch_norm={problem.batch_norm!r} has no meaning here. Leave it out."
        )
    layers = [layer for layer in batch_norm_layers(problem.model) if layer.track_running_stats]
    if any(layer.num_batches_tracked == 0 for layer in layers):
        raise ValueError(
            "The stored batch-norm statistics were never updated (mean 0, variance 1 normalise nothing), so the intact "
            "network has no error to compare with. Train it, or run it in train mode on some data first."
        )
    with left_as_found(problem.model):
        problem.model.eval()
        yield
