"""Which blocks of a network could change places? Read off one ordinary forward pass."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import groupby
from typing import Any, NamedTuple

from torch import nn

from gradscope.instruments.dict_batch import spread
from gradscope.instruments.junctions import Junction, Trace, trace
from gradscope.instruments.junctions.calls import additions
from gradscope.instruments.listen import first_tensor
from gradscope.instruments.quiet import left_as_found

SHAPED = ("projection", "nonparam-skip")


class Run(NamedTuple):
    """One run of a module in a forward: the numbers of the additions it called, how it was called, shapes."""

    name: str
    first: int
    last: int
    form: tuple[Any, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def holds(self, junction: Junction) -> bool:
        return junction.number is not None and self.first <= junction.number < self.last


def interchangeable(model: nn.Module, *arguments: Any, **keywords: Any) -> list[list[str]]:
    """Groups of blocks whose order `reorder` can change: names in the order of `model(*arguments, **keywords)`,
    or of `model(**batch)` for a dict batch, as in `junctions`.

    The blocks of a group are children of one module, such as an `nn.Sequential` or an `nn.ModuleList`, and come
    one after the other there. Each runs once, is called in the same way, keeps the shape of its input, and
    contains the same number, at least one, of junctions of level 0, none of them with a skip that changes the
    shape. Of groups inside blocks of other groups only the outer ones are kept.

    Raises:
        ValueError: As `junctions`.

    Example:
        >>> interchangeable(model, images)
        [['layer1.0', 'layer1.1', 'layer1.2'], ['layer2.1', 'layer2.2', 'layer2.3']]
    """
    with left_as_found(model):
        model.eval()
        inputs = spread(model, arguments, keywords)
        traced, runs = runs_of(model, lambda given: model(*given[0], **given[1]), inputs)
    return groups_of(traced, runs)


def runs_of(model: nn.Module, forward: Callable[[Any], Any], inputs: Any) -> tuple[Trace, dict[str, Run]]:
    """One traced forward pass, and the modules that ran exactly once in it, in the order they began."""
    begun: list[tuple[str, int, tuple[Any, ...], tuple[int, ...]]] = []
    ended: dict[str, tuple[int, tuple[int, ...]]] = {}

    with ExitStack() as stack:
        counter = stack.enter_context(additions(model))

        def enter(name: str) -> Callable[..., None]:
            def listen(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
                begun.append((name, counter.count, *_call(arguments, keywords)))

            return listen

        def leave(name: str) -> Callable[..., None]:
            def listen(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
                ended[name] = (counter.count, _shape(output))

            return listen

        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(leave(name)).remove)
        traced = trace(model, forward, inputs)
    times = Counter(name for name, *_ in begun)
    return traced, {
        name: Run(name, first, ended[name][0], form, before, ended[name][1])
        for name, first, form, before in begun
        if times[name] == 1 and name in ended
    }


def groups_of(traced: Trace, runs: dict[str, Run]) -> list[list[str]]:
    """The groups of `interchangeable`, from what `runs_of` read."""
    numbered = [(j.number, j) for j in traced.junctions if j.level == 0 and j.number is not None]
    numbered.sort(key=lambda pair: pair[0])
    numbers = [number for number, _ in numbered]
    families: dict[str, list[tuple[Run, list[Junction]]]] = {}
    for run in runs.values():
        begin, end = bisect_left(numbers, run.first), bisect_left(numbers, run.last)
        inside = [junction for _, junction in numbered[begin:end]]
        if inside:
            families.setdefault(run.name.rpartition(".")[0], []).append((run, inside))
    groups: list[list[str]] = []
    for children in families.values():
        for key, members in groupby(children, key=lambda child: _kind(*child)):
            names = [run.name for run, _ in members]
            if key is not None and len(names) > 1:
                groups.append(names)
    blocks = {name for names in groups for name in names}
    outermost = [names for names in groups if not any(part in blocks for part in _above(names[0]))]
    rank = {name: i for i, name in enumerate(runs)}
    return sorted(outermost, key=lambda names: rank[names[0]])


def _kind(run: Run, inside: list[Junction]) -> tuple[Any, ...] | None:
    """What blocks that can change places have in common; None for one that changes the shape."""
    if not run.before or run.before != run.after or any(junction.kind in SHAPED for junction in inside):
        return None
    return len(inside), run.before, run.form


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _call(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    return (len(arguments), *sorted(keywords)), _shape((arguments, tuple(keywords.values())))


def _shape(structure: Any) -> tuple[int, ...]:
    tensor = first_tensor(structure)
    return () if tensor is None else tuple(tensor.shape)
