"""Running a network's own forward with some of its torch calls answered instead of made."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from gradscope.instruments.call_record import Made, ModuleCall, mapped, other_forwards, tensors_in

RUN, ANSWER, ACT = 0, 1, 2

Action = Callable[[Any, Any, Any], Any]


class OutOfStep(RuntimeError):
    """The forward made other calls than the recorded one."""


class Stopped(BaseException):
    """The forward went as far as it was wanted."""


class _Outline(NamedTuple):
    """All of a tensor but its numbers."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Tape:
    """What each call of one forward pass returned: tensors in outline, all else as it was."""

    def __init__(self) -> None:
        self.functions: list[Any] = []
        self._results: list[Any] = []
        self._built: dict[int, Any] = {}
        self._outlines: dict[int, _Outline] = {}
        self._undefined: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self.functions)

    def append(self, function: Any, result: Any) -> None:
        self.functions.append(function)
        self._results.append(mapped(result, _outline))

    def answer(self, place: int) -> Any:
        """A result of the same form, whose floating-point numbers are all NaN and take no memory."""
        if place not in self._built:
            self._built[place] = mapped(self._results[place], self._hollow, _Outline)
        return self._built[place]

    def made(self, tensor: Made) -> Tensor:
        return tensors_in(self.answer(tensor.call))[tensor.position]

    def solid(self, tensor: Tensor) -> Tensor:
        """Zeros that can be written to, if this is one of the answers; else the tensor itself."""
        outline = self._outlines.get(id(tensor))
        if outline is None:
            return tensor
        return torch.empty_strided(
            outline.shape, outline.stride, dtype=outline.dtype, device=outline.device
        ).zero_()

    def _hollow(self, outline: _Outline) -> Tensor:
        kind = outline.dtype, outline.device
        if kind not in self._undefined:
            number = float("nan") if outline.dtype.is_floating_point or outline.dtype.is_complex else 0
            self._undefined[kind] = torch.full((), number, dtype=outline.dtype, device=outline.device)
        tensor = self._undefined[kind].expand(outline.shape)
        self._outlines[id(tensor)] = outline
        return tensor


def _outline(tensor: Tensor) -> _Outline:
    return _Outline(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


class Replay(TorchFunctionMode):
    """Runs, answers from a tape, or acts at each call, as told by its place in the pass.

    Args:
        functions: What is called at each place.
        todo: RUN, ANSWER or ACT at each place.
        actions: What to do where ACT stands, `f(function, args, kwargs) -> result`.
        tape: Gives the answers; without one, a new tape is recorded.
    """

    def __init__(
        self, functions: Sequence[Any], todo: bytearray, actions: dict[int, Action], tape: Tape | None
    ) -> None:
        super().__init__()
        self.functions = functions
        self.todo = todo
        self.actions = actions
        self.tape = Tape() if tape is None else tape
        self.taping = tape is None
        self.place = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = self.place
        self.place = place + 1
        if place >= len(self.todo):
            raise OutOfStep
        todo = self.todo[place]
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
        return result

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
            if place not in ended or _get_current_function_mode() is not replay:
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
