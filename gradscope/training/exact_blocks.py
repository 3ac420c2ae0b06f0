"""Train with exactly so many residual blocks in every step, drawn anew: Veit's 23 of 54."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.gates.operands import Gate, replaced
from gradscope.training.path_options import (
    Asked,
    Step,
    chosen_blocks,
    generator_of,
    refuse_seed,
    told,
)


class BlocksOfStep(Step):
    """The steps of a training on some of its blocks.

    Attributes:
        alive: Places, in forward order from 0, of the blocks that the latest forward in train mode kept.
        blocks: Number of blocks to choose from.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.alive: tuple[int, ...] = tuple(range(blocks))


@dataclass(frozen=True)
class ExactBlocks:
    """See `exact_blocks`."""

    blocks: int
    junctions: Asked = None
    seed: int = 0

    def __str__(self) -> str:
        return f"exact_blocks({self.blocks}, junctions={told(self.junctions)}, seed={self.seed})"

    @contextmanager
    def around(self, model: nn.Module, inputs: Any) -> Iterator[BlocksOfStep]:
        """Let every forward of the block in train mode run on so many blocks; the model is as found afterwards.

        Args:
            model: The network.
            inputs: One batch as the model is called (a tensor, a tuple, a dict), on which the blocks are found.

        Yields:
            The steps; each forward in train mode draws its own blocks.

        Raises:
            ValueError: No residual block, or fewer than asked for.
            RuntimeError: A forward called other additions than the one in which the blocks were found.
        """
        chosen = chosen_blocks(model, inputs, self.junctions)
        if self.blocks > len(chosen):
            raise ValueError(
                f"exact_blocks is asked for {self.blocks} blocks in a step, but {type(model).__name__} has "
                f"{len(chosen)}. Ask for at most {len(chosen)}."
            )
        step = BlocksOfStep(len(chosen))

        def draw(module: nn.Module, arguments: Any) -> None:
            if model.training:
                order = torch.randperm(len(chosen), generator=generator_of(self.seed, step.number))
                step.alive = tuple(sorted(order[: self.blocks].tolist()))
                step.number += 1

        def gate(place: int, operand: int) -> Gate:
            def skip(tensor: Tensor) -> Tensor:
                return torch.zeros_like(tensor) if model.training and place not in step.alive else tensor

            return skip

        handle = model.register_forward_pre_hook(draw)
        try:
            with replaced(model, chosen, gate):
                yield step
        finally:
            handle.remove()


def exact_blocks(blocks: int, *, junctions: Asked = None, seed: int = 0) -> ExactBlocks:
    """Train on exactly `blocks` residual blocks in every mini-batch, drawn uniformly without replacement.

    All other blocks are skipped in both passes: their branches contribute zeros, their skips, projections included,
    stay. In eval mode all blocks are there, unscaled. With n blocks alive a step's paths have lengths Bin(n, 1/2).
    Weights of skipped branches get no gradient at all (None after `zero_grad()`), so optimisers leave them alone in
    that step, weight decay and momentum included. The branch is computed also when it is skipped, so batch
    normalisation inside keeps its statistics, and no forward time is saved.

    Args:
        blocks: How many are alive in a step, from 0 to all.
        junctions: The blocks to choose among: junctions of `gs.junctions`, or a pattern of their names. None: the
            outermost that have a skip.
        seed: Of the draws. Step s draws the same blocks whatever was drawn before, so a training resumes bit for bit.

    Returns:
        An option for `fit(paths=...)`, or for loops of your own by `around`.

    Raises:
        ValueError: No whole number from 0; on entering a training, more than there are.

    Source:
        Veit et al. (2016), arXiv:1605.06431, section 5: 23 of 54 blocks.

    Example:
        >>> gs.fit(model, data, paths=gs.exact_blocks(23))
    """
    if not isinstance(blocks, int) or isinstance(blocks, bool) or blocks < 0:
        raise ValueError(f"blocks is how many are alive in every step, from 0, got {blocks!r}.")
    refuse_seed(seed)
    return ExactBlocks(blocks, junctions, seed)
