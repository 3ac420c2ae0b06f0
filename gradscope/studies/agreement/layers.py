"""Where a network's layers stand, how wide their outputs are, and of which class the examples are."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradscope.gradients.gathered import copied
from gradscope.gradients.grams.examples import chosen
from gradscope.instruments.listen import Heard, on_output
from gradscope.instruments.sites import sites
from gradscope.problem import Problem, examples_in


class Place(NamedTuple):
    """Where a layer stands.

    Attributes:
        depth: Order of running, the first is 1 (the input is 0); NaN for a module that is never called itself.
        width: Numbers in one example's outputs, those of all calls together as in the output Gram; 0 where some output
            has no row for each example.
    """

    depth: float
    width: int


def places(problem: Problem, at: Any, block_size: int | None = None) -> dict[str, Place]:
    """Depth and width of every site, by one forward pass without gradient over the first batch, or a block of it."""
    depths: dict[str, int] = {}
    widths: dict[str, list[int]] = {}

    def listen(where: Heard, output: Tensor) -> None:
        per_row = output.ndim > 0 and len(output) == examples
        depths.setdefault(where.site, where.depth + 1)
        widths.setdefault(where.site, []).append(output.numel() // examples if per_row else 0)

    named = sites(problem.model, at)
    with problem.prepared(), torch.no_grad(), on_output(named, listen):
        batch = problem.first_batch()
        examples = examples_in(batch[0])
        if block_size is not None and block_size < examples:
            batch = chosen(batch, torch.arange(block_size), examples)
            examples = block_size
        problem.outputs(copied(batch[0]))
    places = {
        site: Place(depth, sum(widths[site]) if all(widths[site]) else 0) for site, depth in depths.items()
    }
    return {site.name: places.get(site.name, Place(math.nan, 0)) for site in named}


def class_numbers(targets: Tensor | None, examples: int) -> Tensor | None:
    """The targets if they are one class number for each example, [B]; else None."""
    if targets is None or targets.ndim != 1 or len(targets) != examples or targets.is_floating_point():
        return None
    return targets.cpu()
