"""Random parts of a problem's data, none of which share an example, as problems of their own."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.gradients.grams.examples import chosen, joined
from gradscope.instruments.quiet import random_state_kept
from gradscope.problem import Batch, Problem, examples_in

BY_EXAMPLE = ("none", "running")
"""Meanings of batch normalisation under which a batch may be cut without changing an example's output."""


def drawn(problem: Problem, sizes: Sequence[int], draws: int, seed: int) -> dict[int, list[Problem]]:
    """For each size, as many problems on disjoint random batches of that many examples as there are, at most `draws`.

    The batches of one size are disjoint; those of different sizes are parts of one random order, so that they overlap.

    Raises:
        ValueError: Batches that cannot be put behind each other.
    """
    try:
        with random_state_kept():
            batch, own = joined(problem)
    except ValueError as error:
        raise ValueError(
            "Minibatches are drawn from the examples of all batches, so these have to be alike but for the first axis. "
            "Pad them to one length, or pass one batch."
        ) from error
    total = examples_in(batch[0])
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    most = max(own) if problem.batch_norm_name in BY_EXAMPLE else total
    return {
        size: [part(problem, batch, rows, most) for rows in order.split(size)[:draws] if len(rows) == size]
        for size in sizes
    }


def part(problem: Problem, batch: Batch, rows: Tensor, most: int) -> Problem:
    """The same problem on some rows of one batch, at most `most` of them at a time."""
    total = examples_in(batch[0])
    smaller = copy.copy(problem)
    smaller.data = [chosen(batch, piece, total) for piece in rows.split(most)]
    smaller.examples = len(rows)
    return smaller
