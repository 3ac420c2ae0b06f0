"""One forward pass of a network that can be entered at the sums of its junctions."""

import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.resume.attributes import attributes_kept
from gradscope.instruments.resume.cuts import MOST_CUTS, Cut, candidates
from gradscope.instruments.resume.hollow import Hollow, OutOfStep, Tape, zeros_for
from gradscope.instruments.resume.liveness import Liveness
from gradscope.instruments.resume.record import ModuleCall, mapped, module_calls, record
from gradscope.instruments.resume.replay import (
    ACT,
    ANSWER,
    RUN,
    Action,
    Replay,
    Stopped,
    answered_calls,
    keeping,
    ordinary_calls,
    shortcuts,
)

Gate = Callable[[Tensor], Tensor]


@dataclass
class Run:
    """What one run gave: the output (None if it was stopped), the states by number of their cut, the tape."""

    output: Any
    states: dict[int, Tensor]
    tape: Tape


class Program:
    """One forward pass, recorded, with the cuts at which entering it was found to change no bit.

    Args:
        model: The network, in the modes in which it will run.
        forward: `inputs -> output`, one tensor.
        junctions: Closable junctions, in forward order.
        sums: Junctions whose sums may become cuts.
        example: Inputs of the kind to come; a few examples will do. Costs some five passes.

    Attributes:
        record: The recorded pass.
        cuts: The cuts in forward order, each cheaper to go on from than the one before.
        idle: For each junction, the calls that need not run while its branches are closed to zero.
        reason: Why there are no cuts, or "".
        strayed: Whether a batch has taken another way than `example`, and so whole passes.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Any], Tensor],
        junctions: Sequence[Junction],
        sums: Sequence[Junction],
        example: Any,
    ) -> None:
        self.model = model
        self.forward = forward
        self.junctions = tuple(junctions)
        self.idle: list[frozenset[int]] = [frozenset()] * len(self.junctions)
        self.cuts: tuple[Cut, ...] = ()
        self.strayed = False
        numbers = [junction.number for junction in sums if junction.number is not None]
        try:
            with attributes_kept(model):
                self.record = record(model, forward, example, junctions, numbers)
        except Exception as error:
            self.reason = f"recording a pass failed ({type(error).__name__}: {error})"
            return
        self.functions = [call.function for call in self.record.calls]
        self._whole_modules, self._unwatched = True, True
        self.reason = self._unusable()
        if self.reason:
            return
        liveness = Liveness(self.record, self.junctions)
        self._gated, self._unused = liveness.gated, liveness.unused
        self._data_shaped = frozenset(i for i, call in enumerate(self.record.calls) if call.data_shaped)
        found, self.reason = candidates(liveness, numbers)
        if not found:
            return
        try:
            tape = self.run(example).tape
            self._unwatched = self._watching_changes_nothing(example, tape, found)
        except (Exception, OutOfStep):
            self.reason = "two passes over the same inputs call different operations"
            return
        self.cuts = self._proven(found, example, tape)
        if len(self.cuts) < len(found):
            self._whole_modules = False
            self.cuts = self._proven(found, example, tape)
        if self.cuts:
            self._find_idle(liveness, example, tape)
        else:
            self.reason = "a pass entered at a junction does not compute what the whole pass does"
        self.record.states = {}

    def run(
        self,
        inputs: Any,
        tape: Tape | None = None,
        cut: Cut | None = None,
        state: Tensor | None = None,
        closed: Collection[int] = (),
        gate: Gate = torch.zeros_like,
        keep: Collection[Cut] = (),
        stop: Cut | None = None,
    ) -> Run:
        """One pass without gradients, from the start or from a cut; the model's attributes are put back.

        Args:
            inputs: What the forward is called on.
            tape: Of an earlier pass over the same inputs; without one the pass records it.
            cut: Where to enter, with the `state` there, which the pass may overwrite.
            closed: Places in `junctions` whose branches to gate.
            gate: What is put in place of a branch's value.
            keep: Cuts further on whose states to copy.
            stop: One of `keep` after which nothing has to run.

        Raises:
            OutOfStep: The forward called other operations than the recorded one.
        """
        todo = bytearray(len(self.functions))
        actions: dict[int, Action] = {}
        if cut is not None:
            todo[: cut.call] = bytes([ANSWER]) * cut.call
            for place in cut.needed:
                todo[place] = RUN
            todo[cut.call] = ACT
            actions[cut.call] = lambda function, args, kwargs: state
        if tape is not None and gate is torch.zeros_like:
            for junction in closed:
                for place in self.idle[junction]:
                    todo[place] = ANSWER
        for junction in closed:
            for place in self._gated[junction]:
                if todo[place] == RUN:
                    todo[place] = ACT
                    actions[place] = self._closing(junction, place, gate)
        states: dict[int, Tensor] = {}
        for kept in keep:
            actions[kept.call] = keeping(states, kept.number, actions.get(kept.call), kept == stop)
            todo[kept.call] = ACT
        taping = tape is None
        tape = Tape(self._data_shaped) if tape is None else tape
        replay = Replay(self.functions, todo, actions, tape, self._unused)
        skipped = answered_calls(tape.modules, todo) if self._whole_modules else []
        unwatched = ordinary_calls(tape.modules, todo) if self._unwatched else []
        output = None
        with torch.no_grad(), attributes_kept(self.model), ExitStack() as stack:
            if taping:
                tape.modules = stack.enter_context(
                    module_calls(self.model, lambda: replay.place, replay.maker)
                )
            else:
                stack.enter_context(shortcuts(replay, skipped, unwatched))
            try:
                with replay:
                    output = self.forward(inputs)
                replay.finished()
            except Stopped:
                pass
        if taping and _boundaries(tape.modules) != _boundaries(self.record.modules):
            raise OutOfStep
        return Run(output, states, tape)

    def tell_of_whole_passes(self) -> None:
        """Warn, once, that some batch takes another way than `example` did."""
        if not self.strayed:
            self.strayed = True
            warnings.warn(
                f"A batch takes another way through {type(self.model).__name__} than the examples on which "
                "entering it was tried out, so lesions on such batches take whole passes: right, but slower.",
                stacklevel=3,
            )

    def _closing(self, junction: int, place: int, gate: Gate) -> Action:
        """Make a numbered addition as it would be made with gates on this junction's operands."""
        keys = [key for key in self.junctions[junction].branches if self.record.numbered[key[0]] == place]
        met: list[Tensor] = []
        zeros: list[Tensor] = []

        def gated(operand: Tensor) -> Tensor:
            met.append(operand)
            return operand if any(operand is zero for zero in zeros) else gate(operand)

        def solid(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, Hollow):
                return tensor
            zeros.append(zeros_for(tensor))
            return zeros[-1]

        def act(function: Any, args: Any, kwargs: Any) -> Any:
            args, kwargs = mapped(args, solid), mapped(kwargs, solid)
            with additions(self.model, dict.fromkeys(keys, gated)) as counter:
                counter.running, counter.count = True, keys[0][0]
                result = function(*args, **kwargs)
            # Zero is known for what the gate closes only; the other operands have to be there.
            if len(met) != len(keys) or not all(any(zero is one for one in met) for zero in zeros):
                raise OutOfStep
            return result

        return act

    def _unusable(self) -> str:
        if not self.junctions:
            return "there is no branch to close"
        expected = self.junctions[0].additions
        if self.record.additions != expected:
            return (
                f"this forward makes {self.record.additions} additions, the one with the junctions {expected}"
            )
        if any(key not in self.record.operands for junction in self.junctions for key in junction.branches):
            return "operands of some junctions are not met again in a second pass"
        return ""

    def _watching_changes_nothing(self, example: Any, tape: Tape, candidates: Sequence[Cut]) -> bool:
        """Whether modules that run unwatched do the same: torch has fused ways through some of them."""
        whole, parts = self.run(example, tape).output, self.run(example, tape, keep=candidates).states
        return torch.equal(whole, self.record.output) and all(
            torch.equal(parts[cut.number], self.record.states[cut.call]) for cut in candidates
        )

    def _stretch(
        self, example: Any, tape: Tape, start: Cut | None, end: Cut | None, closed: Collection[int] = ()
    ) -> Tensor:
        """What is reached at `end`, or the output, from the intact state at `start`."""
        state = None if start is None else self.record.states[start.call].clone()
        run = self.run(example, tape, start, state, closed, keep=[] if end is None else [end], stop=end)
        reached: Tensor = run.output if end is None else run.states[end.number]
        return reached

    def _proven(self, candidates: Sequence[Cut], example: Any, tape: Tape) -> tuple[Cut, ...]:
        """The cuts from which the pass reaches the next one, and in the end the output, bit for bit.

        What a cut leaves out is left out by those after it too, so proving one stretch for each is enough.
        """
        proven: list[Cut] = []
        for cut in reversed(candidates):
            end = proven[0] if proven else None
            expected = self.record.output if end is None else self.record.states[end.call]
            try:
                same = torch.equal(self._stretch(example, tape, cut, end), expected)
            except (Exception, OutOfStep):
                # A forward that cannot be entered here may fail in any way; it then runs whole.
                same = False
            if same:
                proven.insert(0, cut)
        return tuple(proven)

    def _find_idle(self, liveness: Liveness, example: Any, tape: Tape) -> None:
        """What need not run for a closed branch, where leaving it out changes no bit of the next sum.

        In long chains, branches far from each other are tried in one pass, and each by itself where that fails.
        """
        count = len(self.junctions)
        apart = min(count, MOST_CUTS)
        for group in [range(start, count, apart) for start in range(apart)]:
            if len(group) == 1 or not self._is_idle(group, liveness, example, tape):
                for place in group:
                    self._is_idle([place], liveness, example, tape)

    def _is_idle(self, places: Sequence[int], liveness: Liveness, example: Any, tape: Tape) -> bool:
        start = next((cut for cut in reversed(self.cuts) if cut.place <= places[0]), None)
        end = next((cut for cut in self.cuts if cut.place > places[-1]), None)
        try:
            expected = self._stretch(example, tape, start, end, places)
            for place in places:
                self.idle[place] = frozenset(liveness.idle(place))
            same = torch.equal(self._stretch(example, tape, start, end, places), expected)
        except (Exception, OutOfStep):
            same = False
        if not same:
            for place in places:
                self.idle[place] = frozenset()
        return same


def _boundaries(calls: Sequence[ModuleCall]) -> list[Any]:
    return [(call.module, call.first, call.last, _boundaries(call.inner)) for call in calls]
