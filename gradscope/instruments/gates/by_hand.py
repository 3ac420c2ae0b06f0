"""Junctions that a user names, where no finder can see the sum: fused kernels, custom autograd functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from gradscope.instruments.gates.outputs import named_module
from gradscope.instruments.junctions.junction import Junction

CLOSABLE = ("identity", "projection", "nonparam-skip", "concat")


@dataclass(frozen=True)
class ByHand(Junction):
    """A junction whose operands are the outputs of modules rather than operands of a numbered call.

    Attributes:
        branch_modules: Dotted paths of the modules whose outputs are the residual branches.
        skip_modules: Those whose outputs are the skip; none where the skip has no module of its own.
    """

    branch_modules: tuple[str, ...] = ()
    skip_modules: tuple[str, ...] = ()


def junction_by_hand(
    model: nn.Module,
    branch: str | Sequence[str],
    *,
    kind: str = "identity",
    name: str | None = None,
    skip: str | None = None,
    index: int = 0,
    level: int = 0,
    shape: tuple[int, ...] = (),
) -> Junction:
    """A junction at the outputs of modules, for sums inside fused kernels or custom autograd functions.

    Gates take it like a found one, also mixed with found ones. They replace the first tensor of the module's
    output, so whatever is applied between the module and the sum stays in force: a bias added there is not
    closed with the branch. A kernel that computes branch and sum in one has no module to name and cannot be
    gated. A gated module has to run exactly once in a forward.

    Args:
        model: The network.
        branch: Dotted path of the module whose output is the residual branch, or several for a sum of several.
        kind: `identity`, `projection`, `nonparam-skip` or `concat`.
        name: How it is called in tables; None: the path of the (first) branch.
        skip: Dotted path of a module whose output is the skip. Without it `cut_skips` has nothing to cut.
        index, level, shape: As in `Junction`.

    Raises:
        ValueError: The network has no such module, or `kind` is not one of the four.

    Example:
        >>> sums = [junction_by_hand(model, f"blocks.{i}.mlp", index=i) for i in range(12)]
        >>> with lesion(model, sums[3]):
        ...     logits = model(images)
    """
    if kind not in CLOSABLE:
        raise ValueError(f"A junction by hand is of kind {', '.join(CLOSABLE)}, got {kind!r}.")
    branches = (branch,) if isinstance(branch, str) else tuple(branch)
    if not branches:
        raise ValueError("A junction by hand has at least one branch module, got none. Name it.")
    skips = () if skip is None else (skip,)
    for path in (*branches, *skips):
        named_module(model, path)
    return ByHand(
        name=branches[0] if name is None else name,
        kind=kind,
        level=level,
        shape=tuple(shape),
        index=index,
        branches=(),
        skips=(),
        additions=0,
        branch_modules=branches,
        skip_modules=skips,
    )
