"""Stochastic depth: residual branches dropped at random in training, and scaled by how often they survive."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradscope.instruments.gates.examples import rows_of
from gradscope.instruments.gates.operands import Gate, listed, replaced
from gradscope.instruments.junctions.junction import Junction


def linear_survival(blocks: int, last: float = 0.5) -> list[float]:
    """Survival probabilities p_l = 1 - (l / L)(1 - p_L) of blocks l = 1..L.

    Args:
        blocks: L, at least 1.
        last: p_L in [0, 1], the probability of the last block.

    Source:
        Huang et al. (2016), Deep Networks with Stochastic Depth, arXiv:1603.09382, linear decay.
    """
    if blocks < 1 or not 0 <= last <= 1:
        raise ValueError(
            f"linear_survival needs at least 1 block and last in [0, 1], got {blocks} and {last}."
        )
    return [1 - (block / blocks) * (1 - last) for block in range(1, blocks + 1)]


@contextmanager
def stochastic_depth(
    model: nn.Module,
    junctions: Junction | Sequence[Junction],
    *,
    survival: float | Sequence[float] = 0.5,
    rescale: str = "test",
    training: bool | None = None,
    per: str = "batch",
    seed: int | torch.Generator = 0,
) -> Iterator[None]:
    """Drop residual branches at random in every training forward of the block.

    With b = 1 with probability p and 0 otherwise, drawn anew in each forward, the branch F contributes

    | rescale | in training | in testing | who does so |
    |---|---|---|---|
    | `test` | b F | p F | Huang et al. |
    | `training` | b F / p | F | DropPath of timm, StochasticDepth of torchvision |

    Weights trained by one convention are not those of the other. A branch is computed also when it is dropped, so
    this saves no time.

    Args:
        model: The network the junctions were found in.
        junctions: One or several, found or by hand, as for `lesion`; in forward order for the linear rule. None
            changes nothing.
        survival: The probability p of the last junction, from which the others follow by the linear rule
            (`linear_survival`); or one probability for each junction. In [0, 1]; above 0 to rescale in training.
        rescale: When branches are scaled to make up for the drops: `test` or `training`.
        training: Whether a forward is one of training. None: each goes by the mode that the model is in.
        per: `batch`: one draw for all examples, as Huang et al.; `example`: one draw for each, which needs
            operands with one row per example in dimension 0. All branches of one junction share their draws.
        seed: Of the draws in this block, or a generator on the CPU that goes on where it is. Training that
            enters the block anew for every step needs the generator: a number draws the same each time.

    Raises:
        ValueError: An option out of range; a junction without a branch, as for `lesion`.
        RuntimeError: As for `lesion`.

    Source:
        Huang et al. (2016), Deep Networks with Stochastic Depth, arXiv:1603.09382.

    Example:
        >>> with stochastic_depth(model, junctions(model, images), survival=0.8):
        ...     fit(model, (images, classes))
    """
    chosen = listed(junctions)
    survivals = _checked(len(chosen), survival, rescale, per)
    if not chosen:
        yield
        return
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    drawn: dict[int, Tensor] = {}

    def survived(place: int, count: int) -> Tensor:
        if place not in drawn:
            draws = torch.rand(count, generator=generator, dtype=torch.float64)
            drawn[place] = draws < survivals[place]
        return drawn[place]

    with _each_forward(model, drawn.clear), rows_of(model) as rows:

        def gate(place: int, operand: int) -> Gate:
            p = survivals[place]

            def drop(tensor: Tensor) -> Tensor:
                if not (model.training if training is None else training):
                    return tensor * p if rescale == "test" else tensor
                count = 1 if per == "batch" else rows(tensor, chosen[place].name)
                dropped = ~survived(place, count).to(tensor.device)
                kept = tensor.masked_fill(dropped.view(-1, *[1] * (tensor.ndim - 1)), 0.0)
                return kept / p if rescale == "training" else kept

            return drop

        with replaced(model, chosen, gate):
            yield


@contextmanager
def _each_forward(model: nn.Module, action: Callable[[], None]) -> Iterator[None]:
    handle = model.register_forward_pre_hook(lambda module, arguments: action())
    try:
        yield
    finally:
        handle.remove()


def _checked(blocks: int, survival: float | Sequence[float], rescale: str, per: str) -> list[float]:
    if rescale not in ("test", "training") or per not in ("batch", "example"):
        raise ValueError(
            f"rescale is test or training and per is batch or example, got rescale={rescale!r} and per={per!r}."
        )
    one = not isinstance(survival, Iterable)
    values = [float(p) for p in survival] if isinstance(survival, Iterable) else [float(survival)]
    lowest = min(values, default=1.0)
    in_range = all(0 <= p <= 1 for p in values) and (rescale != "training" or lowest > 0)
    if not in_range or not (one or len(values) == blocks):
        raise ValueError(
            f"survival is the last junction's probability, or one for each of the {blocks} junctions, in [0, 1] and "
            f"above 0 to rescale in training; got {survival!r} with rescale={rescale!r}."
        )
    return linear_survival(blocks, values[0]) if one and blocks else values
