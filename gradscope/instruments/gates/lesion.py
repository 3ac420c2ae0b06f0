"""Lesions: a residual branch is closed, held at its mean, given another example's values, or scaled."""

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.instruments.gates.examples import rows_of
from gradscope.instruments.gates.operands import Gate, listed, replaced
from gradscope.instruments.junctions.junction import Junction
from gradscope.instruments.quiet import left_as_found

KINDS = ("zero", "mean", "resample", "scale")


@contextmanager
def lesion(
    model: nn.Module,
    junctions: Junction | Sequence[Junction],
    *,
    kind: str = "zero",
    factor: float | None = None,
    reference: Any = None,
    seed: int = 0,
) -> Iterator[None]:
    """Lesion the residual branches of some junctions in every forward of the block.

    What the skip does is kept, so a lesioned block with a projection still projects (Veit et al. 2016, section
    4.1). The operand of the numbered addition is replaced, not a module's output, so models that add inside a
    module or scale after it are lesioned rightly too. The branch is still computed.

    | kind | the branch of example i contributes | needs |
    |---|---|---|
    | `zero` | nothing: zeros, also where the branch is not finite | |
    | `mean` | its mean over examples, entry by entry | `reference`, or two examples a batch |
    | `resample` | the branch of another example | `reference`, or two examples a batch |
    | `scale` | `factor` times itself | `factor` |

    Without `reference`, mean and resample are over the current batch: the mean is that of the forward running
    (gradients go through it), and resampling hands each example the branch of another one, along a random cycle
    through the batch. With it, the network runs once over the reference on entering, in the modes it is in and
    under the gates that enclose this one, without gradients and left as found; the mean is over its examples,
    and resampling draws from them with replacement, so an example that is in the reference may draw itself.
    All branches of one junction take the same other example, those of different junctions take theirs
    independently. The draw depends on `seed` and the junction only: it is the same in each forward with as many
    examples, in other company, and on re-entering. Examples are dimension 0.

    Where the sum itself weighs its operands (`lerp`, `alpha=`), those weights stay. Where it multiplies two values
    computed from the input before it adds (`addcmul`, `baddbmm`), the first factor stands for the branch: the same
    for `zero` and `scale`, but the mean and the other example are then those of this factor alone.

    Args:
        model: The network the junctions were found in.
        junctions: One or several of those that `junctions(model, x)` returned, or made by hand; none
            changes nothing. One that is listed twice is lesioned twice.
        kind: `zero`, `mean`, `resample` or `scale`.
        factor: Of `scale`; any finite number, 1 leaves the network intact.
        reference: Of `mean` and `resample`: inputs [M, ...], a tuple of positional or a dict of keyword arguments,
            or a list of such batches. Of the shape of the block's inputs but for the number of examples.
        seed: Of `resample`.

    Raises:
        ValueError: An option that its kind does not take or lacks; a junction of kind `branches`, or without a
            known branch; one of kind `gated`, whose layer `bypass` lesions instead: closing one of its two products
            would leave the other multiplied by its gate; operands without one row per example; a reference of
            another shape.
        RuntimeError: A forward in the block called another number of additions than the one in which
            the junctions were found, so that their numbers no longer hold; or, with gradients, closed a branch in
            a part that is computed again in the backward pass (activation checkpointing): there it would be open.

    Source:
        Zero: Veit et al. (2016), arXiv:1605.06431. Mean and resample are the ablations that stay nearer to values
        the network has seen: a branch with a mean far from zero is off its distribution when it is zero.

    Example:
        >>> found = junctions(model, images)
        >>> with lesion(model, found[3]):
        ...     logits = model(images)
    """
    chosen = listed(junctions)
    _check(kind, factor, reference)
    if kind == "zero" or not chosen:
        with replaced(model, chosen, lambda place, operand: torch.zeros_like):
            yield
    elif factor is not None:
        with replaced(model, chosen, lambda place, operand: lambda tensor: tensor * factor):
            yield
    else:
        make = _mean if kind == "mean" else _resample
        kept = None if reference is None else _collected(model, chosen, reference)
        with rows_of(model) as rows:

            def gate(place: int, operand: int) -> Gate:
                name = chosen[place].name
                source = None if kept is None else kept[place, operand]
                return make(lambda tensor: rows(tensor, name), source, chosen[place], seed)

            with replaced(model, chosen, gate):
                yield


def _mean(rows: Callable[[Tensor], int], source: Tensor | None, junction: Junction, seed: int) -> Gate:
    mean = None if source is None else source.mean(dim=0, keepdim=True)

    def gate(operand: Tensor) -> Tensor:
        if mean is None:
            _several(rows(operand), junction)
            value = operand.mean(dim=0, keepdim=True)
        else:
            value = _fitting(mean, operand, junction).to(operand)
        # A copy of its own in memory, for the network may write into it.
        return value.expand_as(operand).clone()

    return gate


def _resample(rows: Callable[[Tensor], int], source: Tensor | None, junction: Junction, seed: int) -> Gate:
    stream = zlib.crc32(f"{seed} {junction.name} {junction.index}".encode())

    def gate(operand: Tensor) -> Tensor:
        count = rows(operand)
        generator = torch.Generator().manual_seed(stream)
        if source is None:
            _several(count, junction)
            cycle = torch.randperm(count, generator=generator)
            donors = torch.empty_like(cycle)
            donors[cycle] = cycle.roll(1)
            return operand[donors.to(operand.device)]
        donors = torch.randint(len(source), (count,), generator=generator)
        return _fitting(source, operand, junction)[donors.to(source.device)].to(operand)

    return gate


def _collected(model: nn.Module, junctions: list[Junction], reference: Any) -> dict[tuple[int, int], Tensor]:
    """The rows of every branch operand over the reference, [M, ...], by place in the list and operand."""
    heard: dict[tuple[int, int], list[Tensor]] = defaultdict(list)

    def listening(place: int, operand: int) -> Gate:
        def gate(tensor: Tensor) -> Tensor:
            rows(tensor, junctions[place].name)
            # A copy: a sum in place would overwrite what was heard.
            heard[place, operand].append(tensor.detach().clone())
            return tensor

        return gate

    batches = reference if isinstance(reference, list) else [reference]
    if not batches:
        raise ValueError("reference is an empty list, so there is nothing to take a mean or a sample of.")
    with left_as_found(model), torch.no_grad(), rows_of(model) as rows, replaced(model, junctions, listening):
        for batch in batches:
            if isinstance(batch, dict):
                model(**batch)
            else:
                model(*(batch if isinstance(batch, tuple) else (batch,)))
    for (place, _), parts in heard.items():
        for part in parts[1:]:
            _fitting(parts[0], part, junctions[place])
    return {key: torch.cat(parts) for key, parts in heard.items()}


def _fitting(source: Tensor, operand: Tensor, junction: Junction) -> Tensor:
    if source.shape[1:] != operand.shape[1:]:
        raise ValueError(
            f"The reference of a lesion at {junction.name} has values of shape {list(source.shape[1:])} per example, "
            f"but here they are {list(operand.shape[1:])}. Pass references shaped like the inputs."
        )
    return source


def _several(count: int, junction: Junction) -> None:
    if count < 2:
        raise ValueError(
            f"A lesion at {junction.name} by the mean or by another example needs at least 2 examples in the batch, "
            f"got {count}. Pass reference= with inputs to take them from."
        )


def _check(kind: str, factor: float | None, reference: Any) -> None:
    if kind not in KINDS:
        raise ValueError(f"A lesion is of kind {', '.join(KINDS)}, got {kind!r}.")
    if (factor is not None) != (kind == "scale"):
        raise ValueError(
            f"factor belongs to kind='scale', which needs it; got kind={kind!r} and factor={factor!r}."
        )
    if factor is not None and not math.isfinite(factor):
        raise ValueError(f"factor is a finite number, got {factor!r}.")
    if reference is not None and kind not in ("mean", "resample"):
        raise ValueError(f"reference belongs to kind='mean' and 'resample', got it with kind={kind!r}.")
