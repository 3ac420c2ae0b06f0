"""Gates on the forward pass: what is put in place of a junction's operands for a while."""

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradscope.instruments.calls import Plan, additions
from gradscope.instruments.junctions import Junction


@contextmanager
def lesion(model: nn.Module, junctions: Junction | Sequence[Junction]) -> Iterator[None]:
    """Close the residual branches of some junctions: in every forward of the block, they add zero.

    What the skip does is kept, so a lesioned block with a projection still projects (Veit et al. 2016,
    arXiv 1605.06431, section 4.1). The operand of the numbered addition is replaced, not a module's
    output, so models that add inside a module or scale after it are lesioned rightly too. The branch
    is still computed.

    Args:
        model: The network the junctions were found in.
        junctions: One or several of those that `junctions(model, x)` returned; none closes nothing.

    Raises:
        ValueError: A junction without a branch to close (`gated`, `branches`, or an addition that was
            not called from Python).
        RuntimeError: A forward in the block called another number of additions than the one in which
            the junctions were found, so that their numbers no longer hold.

    Example:
        >>> found = junctions(model, images)
        >>> with lesion(model, found[3]):
        ...     logits = model(images)
    """
    chosen = [junctions] if isinstance(junctions, Junction) else list(junctions)
    plan: Plan = {}
    for junction in chosen:
        if not junction.graded or not junction.branches:
            raise ValueError(
                f"Junction {junction.name} is of kind {junction.kind} with {len(junction.branches)} replaceable "
                "branch operands, so it has no branch that a lesion could close. Choose identity, "
                "projection or nonparam-skip junctions."
            )
        plan |= dict.fromkeys(junction.branches, torch.zeros_like)
    if not plan:
        yield
        return

    def verify(module: nn.Module, arguments: object, output: object) -> None:
        expected = chosen[0].additions
        if counter.count != expected:
            raise RuntimeError(
                f"This forward of {type(model).__name__} called {counter.count} additions, but its junctions "
                f"were found in one that called {expected}, so the lesion would hit the wrong place. "
                "Find the junctions on inputs of the same kind and in the same mode."
            )

    with additions(model, plan) as counter:
        handle = model.register_forward_hook(verify)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def bypass(model: nn.Module, at: str) -> Iterator[None]:
    """Let one module hand on its input unchanged: the lesion of a plain network's layer.

    Args:
        model: The network.
        at: Dotted path of a module whose input and output have the same shape.

    Raises:
        ValueError: No such module; or, in the forward, its output has another shape than its input.
    """
    named = dict(model.named_modules())
    if at not in named:
        close = [name for name in named if fnmatch.fnmatch(name, f"*{at.rpartition('.')[2]}*")][:5]
        raise ValueError(
            f"{type(model).__name__} has no module {at!r}. Close names: {', '.join(close) or 'none'}."
        )

    untouched: list[Tensor] = []

    def set_aside(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Copies both ways: in-place layers, in the module or behind it, would overwrite what others hold.
        untouched.append(arguments[0].clone())
        return (arguments[0].clone(), *arguments[1:])

    def hand_on(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given = untouched.pop()
        if given.shape != output.shape:
            raise ValueError(
                f"{at} maps {list(given.shape)} to {list(output.shape)}, so it cannot be replaced by "
                "the identity. Bypass a module that keeps the shape."
            )
        return given

    handles = [
        named[at].register_forward_pre_hook(set_aside),
        named[at].register_forward_hook(hand_on),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
