"""The plain twin of a residual network: the same weights, its skips cut."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from gradscope.instruments.gates.operands import listed, replaced
from gradscope.instruments.junctions.junction import Junction


@contextmanager
def cut_skips(model: nn.Module, junctions: Junction | Sequence[Junction]) -> Iterator[None]:
    """Let the skips of some junctions add zero in every forward of the block, so that only branches lead on.

    With all junctions cut, the network is the plain one with the same weights. Projections and pooled or padded
    skips are cut like identities; in a concatenation the skip's channels are zeros.

    The twin is a fair control at initialisation only: a network trained with its skips is broken without them,
    which says nothing about a plain network trained without.

    Args:
        model: The network the junctions were found in.
        junctions: One or several, found or by hand (with `skip=`), as for `lesion`; none changes nothing.

    Raises:
        ValueError: A junction whose skip is not the operand of a numbered call or a named module's output.
        RuntimeError: As for `lesion`.

    Example:
        >>> with cut_skips(model, junctions(model, images)):
        ...     plain = model(images)
    """
    with replaced(model, listed(junctions), lambda place, operand: torch.zeros_like, side="skips"):
        yield
