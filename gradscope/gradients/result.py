"""What the split of a gradient by path length gives."""

from dataclasses import dataclass
from typing import Any

import torch

from gradscope.instruments.junctions import Junction


@dataclass(frozen=True)
class PathGradients:
    """Gradients by path length, and what they were measured on.

    Attributes:
        gradients: [K+1, *shape], float64, of paths through 0..K branches (with `longest`, n-K..n of n): unsigned, all
            of them sum to `gradient`. At parameters, a dict of these.
        gradient: The ordinary gradient, float64.
        lengths: The K+1 path lengths.
        junctions: The junctions whose branches were counted.
        dtype: Precision of the backward passes.
        lifted: Whether they were kept clear of underflow by powers of two, which change no digit.
        engine: What ran them.
    """

    gradients: Any
    gradient: Any
    lengths: range
    junctions: tuple[Junction, ...]
    dtype: torch.dtype
    lifted: bool
    engine: str
