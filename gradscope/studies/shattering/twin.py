"""The plain twin: the same network with its skips cut, measured in the same way."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from gradscope.instruments.gates import cut_skips
from gradscope.instruments.junctions import Junction, trace
from gradscope.problem import Problem

TWIN = "twin_"
"""What the names of its quantities begin with."""


def residual_junctions(problem: Problem) -> tuple[Junction, ...]:
    """The junctions of the network on the problem's first batch.

    Raises:
        ValueError: As `trace`: a part of the graph cannot be seen.
    """
    with problem.prepared():
        inputs, _ = problem.first_batch()
        return trace(problem.model, problem.outputs, inputs).junctions


@contextmanager
def twin_of(problem: Problem, junctions: tuple[Junction, ...]) -> Iterator[Problem]:
    """The problem of the network without its skips, while the block lasts.

    Stored batch-norm statistics are those of the network with skips, so that where they are in force the twin uses
    those of the batch instead.

    Raises:
        ValueError, RuntimeError: As `cut_skips`.
    """
    twin = copy.copy(problem)
    if problem.batch_norm != "own" and "running" in problem.batch_norm_name:
        twin.batch_norm = "frozen"
    with cut_skips(problem.model, junctions):
        yield twin
