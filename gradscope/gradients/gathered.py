"""A problem whose data is read once, so that several passes see the same examples in the same order."""

import copy
from typing import Any

from torch import Tensor

from gradscope.gradients.grams.examples import joined, mapped
from gradscope.instruments.quiet import random_state_kept
from gradscope.problem import Problem


def gathered(problem: Problem) -> tuple[Problem, int | None]:
    """The same problem on one batch of all examples, and the block size of `layer_grams` that keeps its memory.

    A loader that shuffles hands out another order each time it is read, so that labels or a second Gram would belong to
    other examples. The network, its loss and the meaning of batch normalisation are those of `problem`.

    Returns:
        The problem, and the size of its largest batch, None where it had one batch only.

    Raises:
        ValueError: Batches that cannot be put behind each other.
    """
    with random_state_kept():
        batch, sizes = joined(problem)
    whole = copy.copy(problem)
    whole.data = [batch]
    return whole, max(sizes) if len(sizes) > 1 else None


def read_once(problem: Problem) -> Problem:
    """The same problem on the batches that its data hands out this one time, each kept as it is.

    A loader that shuffles hands out other batches each time it is read, and with them another loss.
    """
    with random_state_kept():
        batches = list(problem.data)
    same = copy.copy(problem)
    same.data = batches
    return same


def copied(inputs: Any) -> Any:
    """The same inputs in tensors of their own, so that a network that writes its input in place changes no data."""
    return mapped(inputs, Tensor.clone)
