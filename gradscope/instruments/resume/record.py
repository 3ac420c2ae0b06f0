"""Every torch call of one forward pass: what it read, what it wrote, and the module calls it ran in.

Memory is named by its storage, so views and in-place operations are calls that write what they read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.resume.data_shapes import DataShapes

_PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
# What these tell of a tensor does not depend on the numbers in it, unless its shape does.
DESCRIPTIONS = {
    *("__get__", "__len__", "dim", "size", "numel", "nelement", "ndimension", "stride", "storage_offset"),
    *(
        "is_contiguous",
        "is_floating_point",
        "is_complex",
        "is_inference",
        "is_conj",
        "is_neg",
        "element_size",
    ),
    *("get_device", "is_same_size", "type", "data_ptr", "is_tensor"),
}


class Call(NamedTuple):
    """One torch call.

    Attributes:
        function: What was called.
        reads: Storages of its tensor arguments.
        writes: Storages of its results; those of its arguments where it returns nothing.
        fresh: Those of `writes` that nobody had seen before.
        kind: `tensor`; `description` (a shape, a dtype); `value` (numbers that Python sees, or a description of a
            tensor whose shape depends on numbers); `opaque` (tensors or results that cannot be looked into: it
            has to run whenever it is met).
        data_shaped: Whether the shapes of its results may depend on numbers, as those of `nonzero` do.
    """

    function: Any
    reads: frozenset[int]
    writes: frozenset[int]
    fresh: frozenset[int]
    kind: str
    data_shaped: bool = False


class Made(NamedTuple):
    """A tensor, told by the call that made it and its place among that call's results."""

    call: int
    position: int


@dataclass
class ModuleCall:
    """Calls `first` to `last` (exclusive) ran in one use of a module.

    `output` has a `Made` in place of each tensor; `known` tells whether all could be told.
    """

    module: nn.Module
    first: int
    last: int = -1
    output: Any = None
    known: bool = False
    inner: list["ModuleCall"] = field(default_factory=list)


@dataclass
class Record:
    """One forward pass.

    Attributes:
        calls: All torch calls.
        modules: The module calls, each with those inside it.
        numbered: {number of an addition: place of its call}.
        operands: {(number, slot) asked for: storage of that operand}.
        additions: How many additions were numbered.
        outputs: Storages of the output.
        output: The output itself.
        states: {place of a call asked for: copy of its result}.
    """

    calls: list[Call]
    modules: list[ModuleCall]
    numbered: dict[int, int]
    operands: dict[tuple[int, int], int]
    additions: int
    outputs: frozenset[int]
    output: Any
    states: dict[int, Tensor]


def record(
    model: nn.Module,
    forward: Callable[[Any], Any],
    inputs: Any,
    junctions: Sequence[Junction],
    sums: Sequence[int] = (),
) -> Record:
    """Run `forward(inputs)` once, without gradients, and note all that it calls.

    Args:
        model: The network that `forward` calls.
        forward: `inputs -> output`.
        inputs: What it is called on. All that the pass computes is held until this returns.
        junctions: Whose branch operands to find among the calls.
        sums: Numbers of the additions whose sums to keep.
    """
    operands: dict[tuple[int, int], int] = {}

    def listen(key: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        def note(operand: Tensor) -> Tensor:
            operands[key] = _storage(operand)
            return operand

        return note

    plan = {key: listen(key) for junction in junctions for key in junction.branches}
    with torch.no_grad(), additions(model, plan) as counter, ExitStack() as stack:
        recorder = _Recorder(counter, set(sums))
        modules = stack.enter_context(module_calls(model, lambda: len(recorder.calls), recorder.made.get))
        stack.enter_context(recorder.shapes)
        stack.enter_context(recorder)
        output = forward(inputs)
    written = frozenset().union(*(call.writes for call in recorder.calls))
    calls = [call._replace(reads=call.reads & written) for call in recorder.calls]
    outputs = frozenset(_storage(tensor) for tensor in tensors_in(output))
    states = {recorder.numbered[number]: state for number, state in recorder.states.items()}
    return Record(calls, modules, recorder.numbered, operands, counter.count, outputs, output, states)


class _Recorder(TorchFunctionMode):
    """Notes each call; whatever it met stays alive, so that no storage's name is used twice."""

    def __init__(self, counter: Any, sums: set[int]) -> None:
        super().__init__()
        self.counter = counter
        self.sums = sums
        self.calls: list[Call] = []
        self.made: dict[int, Made] = {}
        self.numbered: dict[int, int] = {}
        self.states: dict[int, Tensor] = {}
        self.seen: set[int] = set()
        self.shapes = DataShapes()
        self.data_shaped: set[int] = set()
        self.alive: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        number = self.counter.count
        given = tensors_in((args, kwargs))
        self.shapes.depend = False
        result = func(*args, **kwargs)
        place = len(self.calls)
        if self.counter.count == number + 1:
            self.numbered[number] = place
            if number in self.sums:
                self.states[number] = result.clone()
        self.alive.append((given, result))
        returned = tensors_in(result)
        self.made |= {id(tensor): Made(place, position) for position, tensor in enumerate(returned)}
        self.calls.append(self._call(func, given, result, returned))
        return result

    def _call(self, func: Any, given: list[Tensor], result: Any, returned: list[Tensor]) -> Call:
        try:
            reads = frozenset(_storage(tensor) for tensor in given)
            writes = frozenset(_storage(tensor) for tensor in returned)
        except (NotImplementedError, RuntimeError):
            reads = frozenset(_storage(tensor) for tensor in given if _has_storage(tensor))
            return Call(func, reads, frozenset(), frozenset(), "opaque")
        known = _is_known(result)
        if known and not returned and getattr(func, "__name__", "") in DESCRIPTIONS:
            kind = "value" if reads & self.data_shaped else "description"
        elif known and (returned or result is None):
            kind = "tensor"
            # What returns nothing was called for what it does to its arguments.
            writes = writes if returned else reads
        else:
            kind = "value" if known else "opaque"
        fresh = writes - reads - self.seen
        self.seen |= reads | writes
        if kind == "tensor" and self.shapes.depend:
            self.data_shaped |= writes
        elif reads & self.data_shaped:
            self.data_shaped |= writes - reads
        return Call(func, reads, writes, fresh, kind, not writes.isdisjoint(self.data_shaped))


@contextmanager
def module_calls(
    model: nn.Module, place: Callable[[], int], maker: Callable[[int], Made | None]
) -> Iterator[list[ModuleCall]]:
    """The module calls at the top, filled while the model runs.

    Args:
        model: The network.
        place: How many torch calls there were so far.
        maker: Identity of a tensor -> what made it, None if it cannot be told.
    """
    top: list[ModuleCall] = []
    open_calls: list[list[ModuleCall]] = [top]

    def watched(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            call = ModuleCall(module, place())
            open_calls[-1].append(call)
            open_calls.append(call.inner)
            try:
                output = original(*args, **kwargs)
            finally:
                open_calls.pop()
            call.last = place()
            call.known = _is_known(output) and all(maker(id(tensor)) for tensor in tensors_in(output))
            if call.known:
                call.output = mapped(output, lambda tensor: maker(id(tensor)))
            return output

        return forward

    forwards = {
        module: watched(module, module.forward)
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    }
    with other_forwards(forwards):
        yield top


@contextmanager
def other_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions in place of their `forward`; their hooks still run."""
    found = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, original in found.items():
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = original


def tensors_in(structure: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order; other objects are not looked into."""
    if isinstance(structure, Tensor):
        return [structure]
    if isinstance(structure, Mapping):
        structure = list(structure.values())
    if not isinstance(structure, tuple | list):
        return []
    return [tensor for part in structure for tensor in tensors_in(part)]


def mapped(structure: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """The same nested tuples, lists and dicts, with each object of `kind` changed."""
    if isinstance(structure, kind):
        return change(structure)
    if isinstance(structure, dict):
        return {key: mapped(value, change, kind) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        parts = [mapped(value, change, kind) for value in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    return structure


def _is_known(structure: Any) -> bool:
    """Whether `mapped` sees all there is."""
    if isinstance(structure, tuple | list):
        return all(_is_known(part) for part in structure)
    if type(structure) is dict:
        return all(_is_known(part) for part in structure.values())
    return structure is None or isinstance(structure, (Tensor, *_PLAIN))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _has_storage(tensor: Tensor) -> bool:
    try:
        _storage(tensor)
    except (NotImplementedError, RuntimeError):
        return False
    return True
