"""A network under many sets of closed branches, with what the sets have in common computed once."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.batch_norm import batch_norm_layers
from gradscope.instruments.junctions import Junction, Trace
from gradscope.instruments.recalibrate import recalibrated
from gradscope.instruments.resume.batch import ResumedBatch, branches_closed
from gradscope.instruments.resume.hollow import OutOfStep
from gradscope.instruments.resume.order import schedule
from gradscope.instruments.resume.program import Gate, Program


class Resumable:
    """Outputs of a network with branches closed, n single ones in (n + 1) / 2 passes instead of n.

    A pass goes on from the sum of a junction that an earlier one kept, and sets that begin alike share what
    they begin with, as in a trie; the branches that are closed are not computed. The model's own forward
    runs: calls whose results nobody needs are answered with hollow tensors of the same form. Each place
    where a pass can be entered is tried out here, on `example`, and used if not one bit differs. A batch on
    which the forward then calls something else, or reads what was left out, takes whole passes, and a warning
    tells of the first. Very long chains are entered at 64 junctions, evenly spaced. Hooks that the model
    carries still run, and may be handed hollow tensors.

    Attributes that a forward sets (a flag, a counter, a stored value), and what dicts, lists and sets among
    them hold, are put back after every pass but the whole ones; what a forward changes in place elsewhere (a
    list in a list, an object, a tensor's numbers) is not.

    Args:
        model: The network, in eval mode.
        forward: `inputs -> output`, one tensor.
        junctions: The junctions to close, those with branches, in forward order.
        traced: Where they were found.
        example: Inputs to record and try on; a few examples will do. Costs some six passes over them.

    Attributes:
        reason: Why every set takes a full pass, or "" if not.

    Example:
        >>> resumable = Resumable(model, model, closable, traced, images[:2])
        >>> for place, logits in resumable.outputs(images, [{0}, {1}, {0, 2}]):
        ...     print(place, logits.argmax(dim=1))
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Any], Tensor],
        junctions: Sequence[Junction],
        traced: Trace,
        example: Any,
    ) -> None:
        self.model = model
        self.forward = forward
        self.junctions = tuple(junctions)
        self._sums = [j for j in traced.junctions if j.level == 0 and j.number is not None]
        self._example = example
        self._program = self._recorded()
        self._calibrating: Program | None = None
        self.reason = self._program.reason

    @property
    def strayed(self) -> bool:
        """Whether some batch has taken another way through the network, and so whole passes."""
        return self._program.strayed

    def cost(self, closed: Sequence[Collection[int]]) -> int:
        """Branches to evaluate for these sets, with zero for what is closed; a loop takes len(closed) * n.

        The n single lesions cost n (n + 1) / 2 in a network that can be entered at every junction.
        """
        total = 0
        for turn, visit in enumerate(schedule(closed, self._program.cuts, len(self.junctions))):
            if visit.again:
                continue
            start = 0 if visit.cut is None else visit.cut.place
            total += len(self.junctions) if visit.cut is None else visit.cut.cost
            # The first pass over a batch runs whole, to learn the form of everything.
            if turn > 0:
                total -= sum(place >= start and bool(self._program.idle[place]) for place in visit.closed)
        return total

    def outputs(
        self, inputs: Any, closed: Sequence[Collection[int]], gate: Gate = torch.zeros_like
    ) -> Iterator[tuple[int, Tensor]]:
        """The output for one batch under each set of closed junctions, without gradients.

        Args:
            inputs: One batch.
            closed: Sets of places in `junctions`; an empty one is the intact network.
            gate: What is put in place of a branch's value: a function of that value alone.

        Yields:
            Place in `closed` and output, in an order of its own, which suits the sharing.

        Raises:
            ValueError: A place out of range.
        """
        batch = ResumedBatch(self._program, inputs)
        for visit in schedule(closed, self._program.cuts, len(self.junctions)):
            yield visit.place, batch.output(visit, gate)

    def recalibrated_outputs(
        self,
        batches: Sequence[Any],
        calibration: Sequence[Any],
        closed: Sequence[Collection[int]],
        gate: Gate = torch.zeros_like,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """The same with batch-norm statistics estimated anew for each set, as `recalibrated` does.

        Layers before the place where a set's pass is entered keep the statistics of what it shares. Where
        a layer runs more than once in a pass, or the network cannot be entered, all passes are whole.

        Args:
            batches: Batches to give outputs for.
            calibration: Batches to estimate on.
            closed, gate: As in `outputs`.

        Yields:
            Place in `closed`, place in `batches`, output. The statistics are put back at the end.
        """
        layers = [layer for layer in batch_norm_layers(self.model) if layer.track_running_stats]
        if not layers:
            for index, inputs in enumerate(batches):
                for place, output in self.outputs(inputs, closed, gate):
                    yield place, index, output
            return
        done = set()
        with _statistics_kept(layers):
            starts = self._starts(layers)
            if starts is not None:
                try:
                    for found in self._shared(batches, calibration, closed, gate, starts):
                        done.add(found[:2])
                        yield found
                    return
                except OutOfStep:
                    # Some batch takes another way through the network: what is left goes one by one.
                    pass
        for place, junctions in enumerate(closed):
            left = [index for index in range(len(batches)) if (place, index) not in done]
            if not left:
                continue
            with (
                branches_closed(self.model, self.junctions, junctions, gate),
                recalibrated(self.model, calibration, self.forward),
            ):
                for index in left:
                    with torch.no_grad():
                        output = self.forward(batches[index])
                    yield place, index, output

    def _shared(
        self,
        batches: Sequence[Any],
        calibration: Sequence[Any],
        closed: Sequence[Collection[int]],
        gate: Gate,
        starts: dict[nn.Module, int],
    ) -> Iterator[tuple[int, int, Tensor]]:
        if self._calibrating is None:
            return
        calibrating = {cut.number: cut for cut in self._calibrating.cuts}
        cuts = [cut for cut in self._program.cuts if cut.number in calibrating]
        estimated = [ResumedBatch(self._calibrating, inputs) for inputs in calibration]
        measured = [ResumedBatch(self._program, inputs) for inputs in batches]
        for visit in schedule(closed, cuts, len(self.junctions)):
            if not visit.again:
                entered = None if visit.cut is None else calibrating[visit.cut.number]
                keep = tuple(calibrating[cut.number] for cut in visit.keep)
                for layer, call in starts.items():
                    layer.train()
                    if entered is None or call > entered.call:
                        layer.reset_running_stats()  # type: ignore[operator]
                try:
                    for batch in estimated:
                        batch.resumed(visit._replace(cut=entered, keep=keep), gate)
                except (Exception, OutOfStep) as error:
                    self._program.tell_of_whole_passes()
                    raise OutOfStep from error
                for layer in starts:
                    layer.eval()
            for index, batch in enumerate(measured):
                yield visit.place, index, batch.output(visit, gate)

    def _recorded(self) -> Program:
        return Program(self.model, self.forward, self.junctions, self._sums, self._example)

    def _starts(self, layers: Sequence[nn.Module]) -> dict[nn.Module, int] | None:
        """Where each layer's only use begins in a calibrating pass; None if whole passes are needed."""
        if self._program.reason:
            return None
        if self._calibrating is None:
            for layer in layers:
                layer.train()
            try:
                self._calibrating = self._recorded()
            finally:
                for layer in layers:
                    layer.eval()
        if self._calibrating.reason:
            return None
        uses: dict[nn.Module, list[int]] = {layer: [] for layer in layers}
        waiting = list(self._calibrating.record.modules)
        while waiting:
            call = waiting.pop()
            waiting += call.inner
            if call.module in uses:
                uses[call.module].append(call.first)
        if any(len(calls) != 1 for calls in uses.values()):
            return None
        return {layer: calls[0] for layer, calls in uses.items()}


@contextmanager
def _statistics_kept(layers: Sequence[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Let layers average batches with equal weight, and put everything back on leaving."""
    found = [
        (layer, layer.momentum, layer.training, {n: b.clone() for n, b in layer.named_buffers(recurse=False)})
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.momentum = None
        yield
    finally:
        for layer, momentum, training, buffers in found:
            layer.momentum = momentum
            layer.training = training
            for name, value in buffers.items():
                getattr(layer, name).copy_(value)
