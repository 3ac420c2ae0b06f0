"""Running a network's own forward with some of its torch calls answered instead of made."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ReferenceType, ref

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from gradscope.instruments.resume.hollow import Hollow, OutOfStep, Tape
from gradscope.instruments.resume.record import Made, ModuleCall, mapped, other_forwards, tensors_in

RUN, ANSWER, ACT = 0, 1, 2

Action = Callable[[Any, Any, Any], Any]


class Stopped(BaseException):
    """The forward went as far as it was wanted."""


class Replay(TorchFunctionMode):
    """Runs, answers from a tape, or acts at each call, as told by its place in the pass.

    Args:
        functions: What is called at each place.
        todo: RUN, ANSWER or ACT at each place.
        actions: What to do where ACT stands, `f(function, args, kwargs) -> result`.
        tape: Gives the answers; or an empty one, to be recorded on.
        unused: Places of calls whose results nobody needs; where they meet hollow tensors they are answered.
    """

    def __init__(
        self,
        functions: Sequence[Any],
        todo: bytearray,
        actions: dict[int, Action],
        tape: Tape,
        unused: Collection[int],
    ) -> None:
        super().__init__()
        self.functions = functions
        self.todo = todo
        self.actions = actions
        self.tape = tape
        self.taping = not len(tape)
        self.unused = unused
        self.place = 0
        self._made: dict[int, tuple[ReferenceType[Tensor], Made]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = self.place
        self.place = place + 1
        if place >= len(self.todo):
            raise OutOfStep
        todo = self.todo[place]
        if todo == RUN and Hollow in types:
            if place in self.unused and func == self.functions[place]:
                return self.tape.answer(place)
            return Hollow.__torch_function__(func, types, args, kwargs)
        if todo == RUN:
            result = func(*args, **(kwargs or {}))
        elif func != self.functions[place]:
            raise OutOfStep
        elif todo == ANSWER:
            return self.tape.answer(place)
        else:
            result = self.actions[place](func, args, kwargs or {})
        if self.taping:
            if func != self.functions[place]:
                raise OutOfStep
            self.tape.append(func, result)
            for position, tensor in enumerate(tensors_in(result)):
                self._made[id(tensor)] = ref(tensor), Made(place, position)
        return result

    def maker(self, identity: int) -> Made | None:
        """Which call made a living tensor, while a tape is recorded."""
        living, made = self._made.get(identity, (None, None))
        return None if living is None or living() is None else made

    def finished(self) -> None:
        if self.place != len(self.todo):
            raise OutOfStep


def keeping(states: dict[int, Tensor], key: int, action: Action | None, stop: bool) -> Action:
    """Make the call, or act in its place, put a copy of its result into `states`, and stop if asked to."""

    def act(function: Any, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs) if action is None else action(function, args, kwargs)
        states[key] = result.clone()
        if stop:
            raise Stopped
        return result

    return act


@contextmanager
def shortcuts(
    replay: Replay, skipped: Sequence[ModuleCall], unwatched: Sequence[ModuleCall]
) -> Iterator[None]:
    """Let some module calls return their answers without running, and others run without being watched."""
    answers: dict[nn.Module, dict[int, tuple[int, Any]]] = {}
    for call in skipped:
        answers.setdefault(call.module, {})[call.first] = (
            call.last,
            mapped(call.output, replay.tape.made, Made),
        )
    ends: dict[nn.Module, dict[int, int]] = {}
    for call in unwatched:
        ends.setdefault(call.module, {})[call.first] = call.last

    def shortened(module: nn.Module) -> Callable[..., Any]:
        original = module.forward
        answered, ended = answers.get(module, {}), ends.get(module, {})

        def forward(*args: Any, **kwargs: Any) -> Any:
            place = replay.place
            if place in answered:
                replay.place, output = answered[place]
                return output
            # A mode that the model itself has entered lies above this one, which then has to stay.
            watched = _get_current_function_mode() is not replay or any(
                isinstance(tensor, Hollow) for tensor in tensors_in((args, kwargs))
            )
            if watched or place not in ended:
                return original(*args, **kwargs)
            replay.__exit__(None, None, None)
            try:
                return original(*args, **kwargs)
            finally:
                replay.__enter__()
                replay.place = ended[place]

        return forward

    with other_forwards({module: shortened(module) for module in answers.keys() | ends.keys()}):
        yield


def answered_calls(calls: Sequence[ModuleCall], todo: bytearray) -> list[ModuleCall]:
    """The outermost module calls in which every torch call is answered, and so is whatever they return."""
    found = []
    for call in calls:
        answered = todo.count(ANSWER, call.first, call.last)
        if not answered:
            continue
        whole = answered == call.last - call.first and call.known
        if whole and all(todo[tensor.call] == ANSWER for tensor in _makers(call.output)):
            found.append(call)
        else:
            found += answered_calls(call.inner, todo)
    return found


def ordinary_calls(calls: Sequence[ModuleCall], todo: bytearray) -> list[ModuleCall]:
    """The outermost module calls in which every torch call is simply to be made."""
    found = []
    for call in calls:
        ordinary = todo.count(RUN, call.first, call.last)
        if ordinary and ordinary == call.last - call.first:
            found.append(call)
        elif ordinary:
            found += ordinary_calls(call.inner, todo)
    return found


def _makers(structure: Any) -> list[Made]:
    makers: list[Made] = []
    mapped(structure, makers.append, Made)
    return makers
