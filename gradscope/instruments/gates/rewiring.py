"""Blocks run in another order, one of them everywhere, all at once or not at all: does it matter?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.gates.outputs import with_first_tensor
from gradscope.instruments.gates.positions import Forward, given, given_instead, made, positions, running
from gradscope.instruments.key_value_cache import REMEDY, refuse_cache, uses_cache


@contextmanager
def reorder(model: nn.Module, order: Sequence[str]) -> Iterator[None]:
    """Run blocks in another order.

    The names given are also the positions, sorted as `model.named_modules()` lists them; the block named first
    runs at the first position, and so on. Names are positions: hooks, modes and the numbers of additions stay
    there, only what is computed there moves, with its parameters, buffers and inner modules. What the network
    decides outside of its blocks (a mask chosen by layer, an index in a cache) stays with the position too.
    Inside another `reorder`, or any other gate, blocks move as that one has placed them. Where activations are
    checkpointed, the backward pass belongs inside the block too, for it runs the blocks again.

    Args:
        model: The network.
        order: Names of all blocks of one group of `interchangeable`, or of several groups one after the
            other as they come in the forward pass, each in its new order.

    Raises:
        ValueError: A name that is unknown or repeated, a module inside another; in the forward, a moved block
            whose output has another shape than its input.
        RuntimeError: In the forward, a position runs for a second time, or torch refuses what a moved block is
            given there, as where widths differ; the message names both blocks.

    Example:
        >>> with reorder(model, ["blocks.2", "blocks.0", "blocks.1"]):
        ...     logits = model(images)  # the third block first

    Source:
        Veit et al. (2016), arXiv:1605.06431, figure 5b.
    """
    found = positions(model, order)
    sources = dict(zip(found, order, strict=True))
    forwards = {
        position: found[source].forward
        if source == position
        else _moved(source, position, found[source].forward)
        for position, source in sources.items()
    }
    with running(model, forwards):
        yield


@contextmanager
def repeat(model: nn.Module, names: Sequence[str], source: str | None = None) -> Iterator[None]:
    """Run one block at every one of some positions.

    A language model is called with `use_cache=False`, else the block would write its keys to the cache several
    times, which is refused.

    Args:
        model: The network.
        names: The positions, as in `reorder`.
        source: The block that runs at all of them. None: the centre one of `names`, the later of two.

    Raises:
        ValueError, RuntimeError: As `reorder`; in the forward, a block that would run several times is given a
            key-value cache.

    Source:
        Sun et al. (2025), Transformer Layers as Painters, arXiv:2407.09298: middle repeat.
    """
    found = positions(model, names)
    source = list(found)[len(found) // 2] if source is None else source
    everywhere = positions(model, list(found) if source in list(found) else [*found, source])
    block = everywhere[source].forward
    forwards = {name: block if name == source else _moved(source, name, block) for name in found}
    if len(everywhere) > 1:
        forwards = {name: _uncached(source, forward) for name, forward in forwards.items()}
    with running(model, forwards):
        yield


@contextmanager
def parallel(model: nn.Module, names: Sequence[str], loops: int = 1) -> Iterator[None]:
    """Give some blocks one and the same input, and hand on the mean of their outputs.

    All of them run at the first position, with what that one is given besides its first tensor; the later
    positions hand on their input, the rest of a tuple being what their own block made.

    Args:
        model: The network.
        names: The positions, as in `reorder`.
        loops: How often; the mean becomes the common input of the next time (looped parallel).

    Raises:
        ValueError, RuntimeError: As `reorder`; `loops` below 1; with `loops` above 1 a key-value cache, as for
            `repeat`.

    Source:
        Sun et al. (2025), Transformer Layers as Painters, arXiv:2407.09298.
    """
    if loops < 1:
        raise ValueError(f"loops is how often the blocks run side by side, at least 1; got {loops}.")
    found = positions(model, names)
    first, *later = found
    blocks = {
        name: module.forward if name == first else _moved(name, first, module.forward)
        for name, module in found.items()
    }
    if loops > 1:
        blocks = {name: _uncached(name, block) for name, block in blocks.items()}
    structures: dict[str, Any] = {}

    def together(*arguments: Any, **keywords: Any) -> Any:
        stream = given(arguments, keywords)
        for _ in range(loops):
            outputs = []
            for name, block in blocks.items():
                # A copy for each, since a block may begin with an in-place operation.
                changed, named = given_instead(stream.clone(), arguments, keywords)
                output = block(*changed, **named)
                outputs.append(made(output, name, first, stream.shape))
                # Without the tensor, which would keep its graph alive for as long as the block lasts.
                structures[name] = with_first_tensor(output, lambda tensor: tensor.new_empty(0))
            stream = _mean(outputs)
        return with_first_tensor(structures[first], lambda _: stream)

    def hand_on(name: str) -> Forward:
        def run(*arguments: Any, **keywords: Any) -> Any:
            if name not in structures:
                raise RuntimeError(
                    f"{name} ran before {first}, though listed after it, so it has nothing to hand on. Blocks "
                    "side by side are listed in the order in which they run."
                )
            stream = given(arguments, keywords)
            return with_first_tensor(structures[name], lambda _: stream.clone())

        return run

    with running(model, {first: together} | {name: hand_on(name) for name in later}):
        yield


@contextmanager
def skipped(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Hand on the input at some positions; the rest of a tuple is what the block, still run, makes.

    Raises:
        ValueError, RuntimeError: As `reorder`.
    """

    def skipping(name: str, block: Forward) -> Forward:
        def run(*arguments: Any, **keywords: Any) -> Any:
            stream = given(arguments, keywords)
            # Copies both ways: in-place layers, in the block or behind it, would overwrite what others hold.
            changed, named = given_instead(stream.clone(), arguments, keywords)
            output = block(*changed, **named)
            made(output, name, name, stream.shape)
            return with_first_tensor(output, lambda _: stream.clone())

        return run

    found = positions(model, names)
    with running(model, {name: skipping(name, module.forward) for name, module in found.items()}):
        yield


def _moved(source: str, position: str, block: Forward) -> Forward:
    """The forward of a block away from home: it has to keep the shape, and says where it was if it fails.

    What torch and Python say of inputs that do not fit names no block, so it comes inside a sentence that does;
    other errors, such as those of the user's own, stay what they are and get a note.
    """

    def run(*arguments: Any, **keywords: Any) -> Any:
        shape = given(arguments, keywords).shape
        try:
            output = block(*arguments, **keywords)
        except Exception as error:
            where = f"{source} was running at the position of {position}, on an input of shape {list(shape)}"
            advice = "Only blocks of one group of gradscope.interchangeable can change places."
            if uses_cache(keywords):
                advice += f" If the block writes to a key-value cache, {REMEDY}."
            if type(error) not in (RuntimeError, TypeError):
                error.add_note(f"{where}. {advice}")
                raise
            raise RuntimeError(f"{where}, and failed: {str(error).rstrip('. ')}. {advice}") from error
        made(output, source, position, shape)
        return output

    return run


def _uncached(name: str, block: Forward) -> Forward:
    """The forward of a block that runs several times, to which a cache would be written as often."""

    def run(*arguments: Any, **keywords: Any) -> Any:
        refuse_cache(name, arguments, keywords)
        return block(*arguments, **keywords)

    return run


def _mean(outputs: Sequence[Tensor]) -> Tensor:
    # Unseen by function modes, so that the blocks' own additions keep their numbers.
    with torch._C.DisableTorchFunction():
        return torch.stack(list(outputs)).mean(dim=0)
