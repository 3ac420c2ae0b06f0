"""Train with residual blocks dropped by independent coins: stochastic depth as an option of training."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradscope.instruments.gates import stochastic_depth
from gradscope.training.path_options import (
    Asked,
    Step,
    chosen_blocks,
    generator_of,
    refuse_seed,
    told,
)


@dataclass(frozen=True)
class RandomDepth:
    """See `random_depth`."""

    survival: float | tuple[float, ...] = 0.5
    rescale: str = "training"
    per: str = "batch"
    junctions: Asked = None
    seed: int = 0

    def __str__(self) -> str:
        return (
            f"random_depth(survival={self.survival}, rescale={self.rescale}, per={self.per}, "
            f"junctions={told(self.junctions)}, seed={self.seed})"
        )

    @contextmanager
    def around(self, model: nn.Module, inputs: Any) -> Iterator[Step]:
        """Let every forward of the block in train mode drop branches; the model is as found afterwards.

        Args:
            model: The network.
            inputs: One batch as the model is called (a tensor, a tuple, a dict), on which the blocks are found.

        Yields:
            The steps; each forward in train mode draws anew.

        Raises:
            ValueError: No residual block, or an option that does not fit their number.
            RuntimeError: A forward called other additions than the one in which the blocks were found.
        """
        chosen = chosen_blocks(model, inputs, self.junctions)
        generator, step = torch.Generator(), Step()

        def draw(module: nn.Module, arguments: Any) -> None:
            if model.training:
                generator.set_state(generator_of(self.seed, step.number).get_state())
                step.number += 1

        handle = model.register_forward_pre_hook(draw)
        try:
            with stochastic_depth(
                model, chosen, survival=self.survival, rescale=self.rescale, per=self.per, seed=generator
            ):
                yield step
        finally:
            handle.remove()


def random_depth(
    survival: float | Sequence[float] = 0.5,
    *,
    rescale: str = "training",
    per: str = "batch",
    junctions: Asked = None,
    seed: int = 0,
) -> RandomDepth:
    """Train with every residual branch dropped at random, each by its own coin, drawn anew in every step.

    The gate `stochastic_depth` around a training, with draws that are a function of seed and step. Weights of a
    dropped branch get gradients of zero, so weight decay and momentum go on.

    Args:
        survival: Probability of the last block, from which the others follow by the linear rule; or one for each.
        rescale: `training`: branches that survive are divided by their probability while training, and the trained
            model is used as it is. `test`: branches are multiplied by it in eval mode instead (Huang et al.): the
            trained model then has to be used inside `around`, or `stochastic_depth`, as its test error in `fit` is.
        per: `batch`, one draw for all examples, or `example`.
        junctions: The blocks: junctions of `gs.junctions`, or a pattern of their names. None: the outermost that
            have a skip.
        seed: Of the draws.

    Returns:
        An option for `fit(paths=...)`, or for loops of your own by `around`.

    Raises:
        ValueError: An option that is none; on entering a training, a number of probabilities that is not that of
            the blocks.

    Source:
        Huang et al. (2016), Deep Networks with Stochastic Depth, arXiv:1603.09382.

    Example:
        >>> gs.fit(model, data, paths=gs.random_depth(0.5))
    """
    values = tuple(float(p) for p in survival) if isinstance(survival, Iterable) else (float(survival),)
    lowest = 0.0 if rescale == "test" else 5e-324
    if rescale not in ("training", "test") or per not in ("batch", "example"):
        raise ValueError(
            f"rescale is training or test and per is batch or example, got rescale={rescale!r} and per={per!r}."
        )
    if not values or not all(lowest <= p <= 1 for p in values):
        raise ValueError(
            f"survival is a probability, or one for each block, in [0, 1] and above 0 to rescale in training; got "
            f"{survival!r} with rescale={rescale!r}."
        )
    refuse_seed(seed)
    return RandomDepth(values if isinstance(survival, Iterable) else values[0], rescale, per, junctions, seed)
