"""Has something changed since: what kept graphs were built from, as far as it can be told cheaply."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.dense_parts import dense_parts
from gradscope.problem import Problem

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True)
class Stamp:
    """The state of a problem at one time.

    Attributes:
        objects: Tensors, modules and functions, told apart by identity; kept, since a freed one's place in memory
            may be taken by another.
        numbers: Version counters, entries, settings.
    """

    objects: tuple[Any, ...]
    numbers: tuple[Any, ...]

    def matches(self, other: "Stamp") -> bool:
        same = len(self.objects) == len(other.objects) and self.numbers == other.numbers
        return same and all(mine is theirs for mine, theirs in zip(self.objects, other.objects, strict=True))


def stamp(problem: Problem) -> Stamp:
    """What a problem's loss is computed from, now.

    Seen are parameters and buffers (version counters and three entries of each), modules and their plain attributes,
    the loss, its parameters and the tensors it refers to, batches that lie in a list, and the problem's settings. Not
    seen: other edits of `.data`, containers changed in place, data that a loader reads from elsewhere.
    """
    model = problem.model
    state = [*model.parameters(), *model.buffers()]
    further = [*_referred(problem.loss), *_referred(problem.forward)]
    tensors = [*state, *further, *(_tensors(problem.data) if isinstance(problem.data, list | tuple) else ())]
    objects: list[Any] = [model, problem.data, problem.loss, problem.forward, *tensors]
    numbers: list[Any] = [problem.reduction, problem.batch_norm, problem.examples]
    numbers += [_version(tensor) for tensor in tensors]
    numbers += [tensor.requires_grad for tensor in state]
    for module in model.modules():
        objects.append(module)
        for name, value in vars(module).items():
            if isinstance(value, _PLAIN):
                numbers.append((name, value))
            elif name in _HOOKS:
                numbers.append(tuple(value))
            elif not isinstance(value, dict | set):
                objects.append(value)
                numbers.append(_version(value) if isinstance(value, Tensor) else name)
    return Stamp(tuple(objects), (*numbers, *_entries([*state, *further])))


def _version(tensor: Tensor) -> int:
    """How often a tensor has been written to; of one made in inference mode nobody keeps count."""
    return -1 if tensor.is_inference() else tensor._version


def _entries(tensors: list[Tensor]) -> list[float]:
    """Three entries of each."""
    with torch.no_grad():
        parts = [
            part.view(-1) if part.is_contiguous() else part.flatten()
            for t in tensors
            for part in dense_parts(t)
        ]
        entries = [part[:: max(1, len(part) // 2)].double() for part in parts if len(part)]
        if len({entry.device for entry in entries}) > 1:
            entries = [entry.cpu() for entry in entries]
        return torch.cat(entries).tolist() if entries else []


def _referred(function: Any) -> list[Tensor]:
    """The tensors that a function refers to: of a module, in its closure, its defaults, the globals it names."""
    if isinstance(function, MethodType):
        return [*_tensors(function.__self__), *_referred(function.__func__)]
    if isinstance(function, functools.partial):
        return [*_tensors([*function.args, function.keywords]), *_referred(function.func)]
    if not isinstance(function, FunctionType):
        return list(_tensors(function))
    code: CodeType = function.__code__
    globals_named = [function.__globals__.get(name) for name in code.co_names]
    closed = [_content(cell) for cell in function.__closure__ or ()]
    return list(_tensors([*closed, *(function.__defaults__ or ()), function.__kwdefaults__, *globals_named]))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a structure, those of modules included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
