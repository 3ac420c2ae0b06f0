"""How lesioned networks are run: whole for every lesion, or sharing what comes before the closed branches."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.junctions import Trace
from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.recalibrate import recalibrated
from gradscope.instruments.resume.resumable import Resumable
from gradscope.problem import examples_in
from gradscope.studies.lesions.plan import Closed

Gate = Callable[[Closed], AbstractContextManager[object]]


class FullPasses:
    """Runs the network whole for every lesion: right for any network and any gate.

    Args:
        model: The network, in eval mode.
        forward: inputs -> output tensor.
        branches: How many branches one pass evaluates.
        gate: Closed places -> context manager in which `forward` runs lesioned; for no places, intact.
        reason: Why nothing cheaper is done.
        on_entering: Batches and examples that `gate` itself runs whenever it is entered.

    Attributes:
        name: What the column `passes` says.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Any], Tensor],
        branches: int,
        gate: Gate,
        reason: str,
        on_entering: tuple[int, int] = (0, 0),
    ) -> None:
        self.model = model
        self.forward = forward
        self.branches = branches
        self.gate = gate
        self.on_entering = on_entering
        self.name = f"full passes: {reason}"

    def evaluations(self, closed: Sequence[Closed]) -> int:
        """Branches that `outputs` evaluates for one batch; a closed branch is computed all the same."""
        return self.branches * len(closed)

    def outputs(self, inputs: Any, closed: Sequence[Closed]) -> Generator[tuple[int, Tensor]]:
        """(place in `closed`, output of the network lesioned so) for one batch of inputs."""
        for place, places in enumerate(closed):
            with self.gate(places), torch.no_grad():
                output = self.forward(inputs)
            yield place, output

    def recalibrated_outputs(
        self, batches: Sequence[Any], calibration: Sequence[Any], closed: Sequence[Closed]
    ) -> Generator[tuple[int, int, Tensor]]:
        """(place in `closed`, batch, output), with batch-norm statistics estimated anew in each lesioned network."""
        for place, places in enumerate(closed):
            with self.gate(places), recalibrated(self.model, calibration, self.forward):
                for batch, inputs in enumerate(batches):
                    with torch.no_grad():
                        output = self.forward(inputs)
                    yield place, batch, output


class PrefixReuse:
    """Lesions that begin alike share what comes before they differ, and closed branches are not computed.

    Args:
        resumable: Of the junctions whose places are closed.
        operand: What is put in place of a branch's value.
    """

    on_entering = (0, 0)

    def __init__(self, resumable: Resumable, operand: Callable[[Tensor], Tensor]) -> None:
        self.resumable = resumable
        self.operand = operand

    @property
    def name(self) -> str:
        """As in `FullPasses`; batches that take another way through the network are known once they have run."""
        strayed = "; whole passes for batches that take another way" if self.resumable.strayed else ""
        return f"prefix reuse{strayed}"

    def evaluations(self, closed: Sequence[Closed]) -> int:
        """As in `FullPasses`; of zero in a branch's place, for another value has to be computed."""
        return self.resumable.cost(closed)

    def outputs(self, inputs: Any, closed: Sequence[Closed]) -> Generator[tuple[int, Tensor]]:
        yield from self.resumable.outputs(inputs, closed, self.operand)

    def recalibrated_outputs(
        self, batches: Sequence[Any], calibration: Sequence[Any], closed: Sequence[Closed]
    ) -> Generator[tuple[int, int, Tensor]]:
        yield from self.resumable.recalibrated_outputs(batches, calibration, closed, self.operand)


def prefix_reuse(
    model: nn.Module,
    forward: Callable[[Any], Tensor],
    junctions: Sequence[Junction],
    traced: Trace | None,
    inputs: Any,
    kind: str,
    factor: float | None,
) -> PrefixReuse | str:
    """Passes that share prefixes, or the reason why every lesion takes a full pass.

    Args:
        junctions: Those that will be closed.
        traced: Where they were found; None if they were not.
        inputs: A batch, of which two examples are tried.
        kind, factor: Of the lesions.
    """
    if kind not in ("zero", "scale"):
        return f"a branch in a lesion of kind {kind} depends on more than its own value"
    if traced is None or {_identity(one) for one in junctions} - {_identity(one) for one in traced.junctions}:
        return "junctions were made by hand"
    if any(junction.level for junction in junctions):
        return "junctions lie in other junctions' branches"
    resumable = Resumable(model, forward, junctions, traced, _few(inputs))
    if resumable.reason:
        return resumable.reason
    return PrefixReuse(resumable, torch.zeros_like if factor is None else lambda value: value * factor)


def _identity(junction: Junction) -> tuple[Any, ...]:
    """What does not change with the number of examples."""
    return (
        junction.name,
        junction.kind,
        junction.branches,
        junction.skips,
        junction.additions,
        junction.number,
    )


def _few(inputs: Any) -> Any:
    if not isinstance(inputs, Mapping):
        return inputs[:2] if isinstance(inputs, Tensor) else inputs
    examples = examples_in(inputs)
    return {
        key: value[:2] if isinstance(value, Tensor) and value.ndim and len(value) == examples else value
        for key, value in inputs.items()
    }
