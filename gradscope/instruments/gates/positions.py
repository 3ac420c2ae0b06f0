"""Places where blocks run: their names are checked, and another forward runs there for a while."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.gates.outputs import near_names, with_first_tensor
from gradscope.instruments.listen import first_tensor

Forward = Callable[..., Any]


def positions(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of these names, in the order in which `named_modules` lists them.

    Raises:
        ValueError: No name, an unknown or a repeated one, two names of one module, a module that lies inside
            another, a scripted module.
    """
    if isinstance(names, str) or not isinstance(names, Collection) or not names:
        raise ValueError(f"Names of modules are given as a list of at least one, got {names!r}.")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"Modules are named by strings, as model.named_modules() lists them, got {name!r} in {names!r}. "
                "gs.interchangeable(model, x) gives the names of blocks that can change places."
            )
    listed = dict(model.named_modules(remove_duplicate=False))
    unknown = [name for name in names if not name or name not in listed]
    if unknown:
        raise ValueError(
            f"{type(model).__name__} has no module {unknown[0]!r} inside it. {near_names(model, unknown[0])}"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice. Name each module once.")
    wanted = set(names)
    found = {name: module for name, module in listed.items() if name in wanted}
    place: dict[int, str] = {}
    for name, module in found.items():
        if id(module) in place:
            raise ValueError(
                f"{place[id(module)]} and {name} are one module, used twice. Its uses cannot be told apart by name; "
                "leave it out."
            )
        place[id(module)] = name
    for name, module in found.items():
        inside = next(
            (place[id(part)] for part in module.modules() if place.get(id(part), name) != name), None
        )
        if inside is not None:
            raise ValueError(f"{inside} lies inside {name}. Name one of the two.")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{name} is a scripted module, whose forward cannot be exchanged. Use the eager one."
            )
    return found


class Exchanged:
    """A forward that stands in for a position's own one."""

    def __init__(self, name: str, forward: Forward) -> None:
        self.name = name
        self.forward = forward

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.forward(*arguments, **keywords)

    def __deepcopy__(self, memo: object) -> "Exchanged":
        # The copy would silently go on to run the blocks of the network it was copied from.
        raise RuntimeError(
            f"Another block runs at {self.name} just now, so the network cannot be copied. Copy it outside of the gate."
        )


@contextmanager
def running(model: nn.Module, forwards: Mapping[str, Forward]) -> Iterator[None]:
    """Let other forwards run at some positions: names, hooks and modes stay with the position.

    The attribute `forward` of each module's instance is exchanged and put back, so the hooks of the
    position are called as ever; those of what runs there are not.

    Args:
        model: The network.
        forwards: Name of the position to what runs there, called as the module there is called.

    Raises:
        RuntimeError: In the forward of the model, a position runs for a second time.
    """
    modules = {name: model.get_submodule(name) for name in forwards}
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    seen: set[str] | None = None

    def start(module: nn.Module, arguments: object) -> None:
        nonlocal seen
        seen = set()

    def stop(module: nn.Module, arguments: object, output: object) -> None:
        nonlocal seen
        seen = None

    def once(name: str) -> Callable[[nn.Module, object], None]:
        def check(module: nn.Module, arguments: object) -> None:
            # Outside of the model's forward nothing is counted: checkpointed blocks run again in backward.
            if seen is None:
                return
            if name in seen:
                raise RuntimeError(
                    f"{name} runs a second time in one forward of {type(model).__name__}, so it is no single "
                    "position. Name modules that run once in each forward."
                )
            seen.add(name)

        return check

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(start).remove)
        stack.callback(model.register_forward_hook(stop, always_call=True).remove)
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(once(name)).remove)
        try:
            for name, module in modules.items():
                module.__dict__["forward"] = Exchanged(name, forwards[name])
            yield
        finally:
            for name, module in modules.items():
                if before[name] is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = before[name]


def given(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """What a block is applied to: the first tensor among its arguments, then among its keywords.

    Raises:
        ValueError: There is none.
    """
    tensor = first_tensor((arguments, keywords))
    if tensor is None:
        raise ValueError(
            f"A block was called without a tensor: with {len(arguments)} arguments and the keywords "
            f"{list(keywords)}. Name modules that are given one."
        )
    return tensor


def given_instead(
    tensor: Tensor, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments and keywords with another tensor in the place that `given` reads."""
    changed: tuple[tuple[Any, ...], dict[str, Any]] = with_first_tensor(
        (arguments, keywords), lambda _: tensor
    )
    return changed


def made(output: Any, source: str, position: str, before: torch.Size) -> Tensor:
    """What a block hands on: the first tensor of its output.

    Args:
        output: What the block returned.
        source: Its name.
        position: Where it ran.
        before: Shape of what it was given.

    Raises:
        ValueError: There is none, or it has another shape.
    """
    tensor = first_tensor(output)
    if tensor is None or tensor.shape != before:
        told = f"a {type(output).__name__} without a tensor" if tensor is None else f"{list(tensor.shape)}"
        raise ValueError(
            f"{source}, running at the position of {position}, maps {list(before)} to {told}, but only blocks "
            "that keep the shape can change places. Stay within one group of gradscope.interchangeable."
        )
    return tensor
