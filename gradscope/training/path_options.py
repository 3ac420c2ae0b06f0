"""What the options of training on fewer paths have in common: blocks found once, a step, draws that resume."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gradscope.instruments.checkpointed import computed_again
from gradscope.instruments.gates import ByHand
from gradscope.instruments.gates.operands import closable, listed
from gradscope.instruments.junctions import Junction, Junctions, Trace, trace
from gradscope.instruments.junctions.calls import AddCall, additions
from gradscope.instruments.quiet import left_as_found

Asked = Junction | Sequence[Junction] | str | None


class Step:
    """The steps of one training, as `around` yields them.

    Attributes:
        number: Of the next step, from 0; where blocks are drawn, each forward in train mode counts it up. Draws depend
            on it and the seed alone, so a training that is resumed sets it to the number of steps already made.
    """

    number = 0

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this step to `.grad`, in place of `loss.backward()`."""
        loss.backward()


@runtime_checkable
class PathOption(Protocol):
    """What `fit(paths=...)` takes. Its text names everything that changes the training."""

    def around(self, model: nn.Module, inputs: Any) -> AbstractContextManager[Step]:
        """Let every forward of the block in train mode be one of this option."""
        ...


class FirstForward(NamedTuple):
    """One forward in train mode: what was found, the additions it called, and which of them will be run again."""

    found: Trace
    calls: list[AddCall]
    checkpointed: frozenset[int]


def first_forward(model: nn.Module, inputs: Any) -> FirstForward:
    """Find the junctions of one forward in train mode, and leave the model as found.

    Args:
        model: If it is in train mode already, modules that are not are left alone.
        inputs: One batch as the model is called: a tensor, a tuple of arguments or a dict of keywords.

    Raises:
        ValueError: As `trace`.
    """
    if isinstance(inputs, dict):
        given: tuple[tuple[Any, ...], dict[str, Any]] = ((), inputs)
    else:
        given = (inputs if isinstance(inputs, tuple) else (inputs,), {})
    calls: list[AddCall] = []
    checkpointed: set[int] = set()

    def note(call: AddCall) -> None:
        calls.append(call)
        if computed_again():
            checkpointed.add(call.number)

    with left_as_found(model), additions(model, report=note):
        if not model.training:
            model.train()
        found = trace(model, lambda placed: model(*placed[0], **placed[1]), given)
    return FirstForward(found, calls, frozenset(checkpointed))


def chosen_blocks(model: nn.Module, inputs: Any, asked: Asked) -> list[Junction]:
    """The junctions whose branches are skipped: the outermost that have a skip, or what was asked for.

    Raises:
        ValueError: There is none, or none that matches; or one lies in a part that is computed again in the backward
            pass, where no gate would act.
    """
    if not isinstance(asked, str) and asked is not None:
        chosen = listed(asked)
        if chosen and all(isinstance(junction, ByHand) for junction in chosen):
            return chosen
    first = first_forward(model, inputs)
    found = first.found.junctions
    if asked is None:
        chosen = [junction for junction in found if junction.outermost and closable(junction)]
        if not chosen:
            raise ValueError(no_blocks(model, found))
    else:
        chosen = selected(model, found, asked)
    again = [j.name for j in chosen if any(number in first.checkpointed for number, _ in j.branches)]
    if again:
        raise ValueError(
            f"{type(model).__name__} computes {again[0]} again in the backward pass (activation checkpointing), and "
            "would then not skip the branches that the forward pass skipped. Turn checkpointing off."
        )
    return chosen


def selected(model: nn.Module, found: Sequence[Junction], asked: Asked) -> list[Junction]:
    """The junctions of this forward that were asked for, by pattern or by name: shapes differ with the batch."""
    if asked is None:
        return list(found)
    if isinstance(asked, str):
        return Junctions(found).matching(asked)
    by_name = {junction.name: junction for junction in found}
    wanted = listed(asked)
    unknown = [j.name for j in wanted if j.name not in by_name and not isinstance(j, ByHand)]
    if unknown or not wanted:
        raise ValueError(
            f"junctions asks for {', '.join(unknown) or 'none'}, but those of {type(model).__name__} in train mode are "
            f"{', '.join(list(by_name)[:8]) or 'none'}. Take them from gs.junctions(model, x), or give a pattern."
        )
    return [j if isinstance(j, ByHand) else by_name[j.name] for j in wanted]


def no_blocks(model: nn.Module, found: Sequence[Junction]) -> str:
    kinds = ", ".join(sorted({junction.kind for junction in found}))
    came = f"only junctions of kind {kinds}" if kinds else "no residual junction"
    return (
        f"{type(model).__name__} has {came} on this batch, so it has no residual blocks to choose among. Pass a "
        "network with skip connections, or junctions="
    )


def told(asked: Asked) -> str:
    """How a choice of junctions is written in a checkpoint."""
    if asked is None or isinstance(asked, str):
        return repr(asked)
    return repr([junction.name for junction in listed(asked)])


def generator_of(seed: int, number: int) -> torch.Generator:
    """Randomness of one step, whatever the steps before it drew."""
    digest = hashlib.sha256(f"paths {seed}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def refuse_seed(seed: object) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"seed is a whole number, of which every step's draw is a function, got {seed!r}.")
