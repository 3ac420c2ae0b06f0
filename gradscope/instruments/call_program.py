"""One forward pass of a network that can be entered at the sums of its junctions."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradscope.instruments.call_liveness import Liveness
from gradscope.instruments.call_record import mapped, record
from gradscope.instruments.call_replay import (
    ACT,
    ANSWER,
    RUN,
    Action,
    OutOfStep,
    Replay,
    Stopped,
    Tape,
    answered_calls,
    keeping,
    ordinary_calls,
    shortcuts,
)
from gradscope.instruments.calls import additions
from gradscope.instruments.junction import Junction

Gate = Callable[[Tensor], Tensor]


class Cut(NamedTuple):
    """A sum from which the pass can go on.

    Attributes:
        call: Place of the call that makes the sum.
        number: Number of that addition.
        place: How many of the closable junctions lie before it.
        cost: How many of them run when the pass goes on from here.
        needed: Places of calls before it that run all the same: masks, positions, the other input's encoder.
    """

    call: int
    number: int
    place: int
    cost: int
    needed: tuple[int, ...]


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
        numbers = [junction.number for junction in sums if junction.number is not None]
        try:
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
        self._gated = liveness.gated
        candidates, self.reason = self._candidates(liveness, numbers)
        if not candidates:
            return
        try:
            tape = self.run(example).tape
            self._unwatched = self._watching_changes_nothing(example, tape, candidates)
        except OutOfStep:
            self.reason = "two passes over the same inputs call different operations"
            return
        self.cuts = self._proven(candidates, example, tape)
        if len(self.cuts) < len(candidates):
            self._whole_modules = False
            self.cuts = self._proven(candidates, example, tape)
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
        """One pass without gradients, from the start or from a cut.

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
                    actions[place] = self._closing(junction, place, gate, tape)
        states: dict[int, Tensor] = {}
        for kept in keep:
            actions[kept.call] = keeping(states, kept.number, actions.get(kept.call), kept == stop)
            todo[kept.call] = ACT
        replay = Replay(self.functions, todo, actions, tape)
        modules = self.record.modules
        skipped = answered_calls(modules, todo) if tape and self._whole_modules else []
        unwatched = ordinary_calls(modules, todo) if tape and self._unwatched else []
        output = None
        with torch.no_grad(), shortcuts(replay, skipped, unwatched):
            try:
                with replay:
                    output = self.forward(inputs)
                replay.finished()
            except Stopped:
                pass
        return Run(output, states, replay.tape)

    def _closing(self, junction: int, place: int, gate: Gate, tape: Tape | None) -> Action:
        """Make a numbered addition as it would be made with gates on this junction's operands."""
        keys = [key for key in self.junctions[junction].branches if self.record.numbered[key[0]] == place]
        met: list[Tensor] = []
        zeros: list[Tensor] = []

        def gated(operand: Tensor) -> Tensor:
            met.append(operand)
            return operand if any(operand is zero for zero in zeros) else gate(operand)

        def solid(tensor: Tensor) -> Tensor:
            filled = tensor if tape is None else tape.solid(tensor)
            if filled is not tensor:
                zeros.append(filled)
            return filled

        def act(function: Any, args: Any, kwargs: Any) -> Any:
            args, kwargs = mapped(args, solid), mapped(kwargs, solid)
            with additions(self.model, dict.fromkeys(keys, gated)) as counter:
                counter.running, counter.count = True, keys[0][0]
                result = function(*args, **kwargs)
            if len(met) != len(keys):
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

    def _candidates(self, liveness: Liveness, numbers: Sequence[int]) -> tuple[list[Cut], str]:
        count = len(self.junctions)
        if count == 1:
            return [], "lesions of a single branch share nothing"
        seen = min(liveness.seen_values(), default=len(self.functions))
        cuts: list[Cut] = []
        for call, number in sorted(
            (self.record.numbered[n], n) for n in numbers if n in self.record.numbered
        ):
            before = [junction for junction in range(count) if max(self._gated[junction]) <= call]
            after = [junction for junction in range(count) if min(self._gated[junction]) > call]
            if call > seen or before + after != list(range(count)) or not before or not after:
                continue
            needed = liveness.before(call)
            again = [junction for junction in before if not needed.isdisjoint(self._gated[junction])]
            cut = Cut(call, number, len(before), len(after) + len(again), tuple(sorted(needed)))
            if cuts and cuts[-1].place == cut.place and cut.cost <= cuts[-1].cost:
                cuts.pop()
            if cut.cost < (cuts[-1].cost if cuts else count):
                cuts.append(cut)
        if cuts:
            return cuts, ""
        if seen < len(self.functions):
            return (
                [],
                "Python looks at numbers that a lesion changes, so a part of the pass cannot be left out",
            )
        return [], "what follows any junction needs all that came before it"

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
            except Exception:
                # A forward that cannot be entered here may fail in any way; it then runs whole.
                same = False
            if same:
                proven.insert(0, cut)
        return tuple(proven)

    def _find_idle(self, liveness: Liveness, example: Any, tape: Tape) -> None:
        """What need not run for a closed branch, where leaving it out changes no bit of the next sum."""
        for place, _ in enumerate(self.junctions):
            start = next((cut for cut in reversed(self.cuts) if cut.place <= place), None)
            end = next((cut for cut in self.cuts if cut.place > place), None)
            try:
                expected = self._stretch(example, tape, start, end, [place])
                self.idle[place] = frozenset(liveness.idle(place))
                same = torch.equal(self._stretch(example, tape, start, end, [place]), expected)
            except Exception:
                same = False
            if not same:
                self.idle[place] = frozenset()
