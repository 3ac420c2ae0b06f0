"""Branches of residual junctions scaled for a while."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from gradscope.instruments.gates.operands import listed, replaced
from gradscope.instruments.junctions.junction import Junction


@contextmanager
def scale_branches(
    model: nn.Module, junctions: Junction | Sequence[Junction], factor: float | Sequence[float]
) -> Iterator[None]:
    """Multiply the residual branches of some junctions in every forward of the block: y = skip + factor F.

    Scaling the branch outputs is scaling the branches' Jacobians, so the gradient through k of the scaled
    branches is multiplied by factor^k only where the branches are linear: elsewhere later branches also see
    other inputs.

    Args:
        model: The network the junctions were found in.
        junctions: One or several, found or by hand, as for `lesion`; none changes nothing.
        factor: One finite number for all, or one for each junction. 1 leaves the network intact.

    Raises:
        ValueError: Another number of factors than of junctions, a factor that is not finite, or a junction
            without a branch, as for `lesion`.
        RuntimeError: As for `lesion`.

    Example:
        >>> with scale_branches(model, junctions(model, images), 0.5):
        ...     logits = model(images)
    """
    chosen = listed(junctions)
    factors = [float(f) for f in factor] if isinstance(factor, Iterable) else [float(factor)] * len(chosen)
    if len(factors) != len(chosen) or not all(math.isfinite(f) for f in factors):
        raise ValueError(
            f"factor is one finite number, or one for each of the {len(chosen)} junctions, got {factor!r}."
        )
    with replaced(model, chosen, lambda place, operand: lambda tensor: tensor * factors[place]):
        yield
