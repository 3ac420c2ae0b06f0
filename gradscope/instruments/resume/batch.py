"""One batch under one set of closed branches after the other, going on from what earlier passes kept."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.resume.hollow import OutOfStep, Tape
from gradscope.instruments.resume.order import Visit
from gradscope.instruments.resume.program import Gate, Program


class ResumedBatch:
    """One batch and what is kept of its passes: a tape, and the states that later sets go on from."""

    def __init__(self, program: Program, inputs: Any) -> None:
        self.program = program
        self.inputs = inputs
        self._in_step = not program.reason
        self._tape: Tape | None = None
        self._states: dict[int, Tensor] = {}
        self._latest: Tensor | None = None

    def output(self, visit: Visit, gate: Gate) -> Tensor:
        """The output for this set; by a full pass where this batch takes another way through the network."""
        if visit.again and self._latest is not None:
            return self._latest.clone()
        if self._in_step:
            try:
                self._latest = self.resumed(visit, gate)
                return self._latest
            except (Exception, OutOfStep):
                # If it was not for what was left out, the whole pass raises again.
                self._in_step = False
                self._states.clear()
                self.program.tell_of_whole_passes()
        program = self.program
        with torch.no_grad(), branches_closed(program.model, program.junctions, visit.closed, gate):
            self._latest = program.forward(self.inputs)
        return self._latest

    def resumed(self, visit: Visit, gate: Gate) -> Tensor:
        """Raises OutOfStep where this batch takes another way through the network."""
        state = None
        if visit.cut is not None:
            number = visit.cut.number
            state = self._states.pop(number) if visit.last else self._states[number].clone()
        run = self.program.run(self.inputs, self._tape, visit.cut, state, visit.closed, gate, keep=visit.keep)
        self._tape = run.tape
        self._states |= run.states
        output: Tensor = run.output
        return output


@contextmanager
def branches_closed(
    model: nn.Module, junctions: Sequence[Junction], closed: Collection[int], gate: Gate
) -> Iterator[None]:
    """Put `gate(value)` in place of the values of some junctions' branches, in whole passes.

    Args:
        model: The network.
        junctions: Its junctions.
        closed: Places in `junctions`.
        gate: What is put in place of a branch's value.

    Raises:
        RuntimeError: A forward made another number of additions than the one the junctions are from.
    """
    keys = [key for place in closed for key in junctions[place].branches]

    def verify(module: nn.Module, arguments: object, output: object) -> None:
        if keys and counter.count != junctions[0].additions:
            raise RuntimeError(
                f"This forward of {type(model).__name__} called {counter.count} additions, but its junctions "
                f"were found in one that called {junctions[0].additions}, so a lesion would hit the wrong "
                "place. Find the junctions on inputs of the same kind and in the same mode."
            )

    with additions(model, dict.fromkeys(keys, gate)) as counter:
        handle = model.register_forward_hook(verify)
        try:
            yield
        finally:
            handle.remove()
