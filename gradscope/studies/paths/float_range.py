"""Which lengths have a gradient too small for the numbers it was computed in."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.gradients.result import PathGradients
from gradscope.gradients.split import Paths
from gradscope.instruments.gates.polynomial import Powers
from gradscope.studies.paths.counts import Counts

# No gradient times this overflows in the first crossing, and any that is not exactly zero shows up.
_LARGEST_STEP = {torch.float32: 60, torch.float64: 500}


def too_small(exact: PathGradients) -> str:
    """What to say of a length that was lost."""
    wide = exact.dtype is not torch.float32
    name = str(exact.dtype).removeprefix("torch.")
    remedy = "path_moments needs no single length" if wide else "pass precision=torch.float64"
    return f"paths of this length exist, but their gradient is below what {name} holds: {remedy}"


def lost_lengths(
    paths: Paths, exact: PathGradients, norms: Tensor, counts: Counts, engine: str = "auto"
) -> list[bool]:
    """For each length whether its gradient is lost below the smallest number, although paths exist.

    A zero is right where branches hand back exactly zero (zero-initialised ones). It is told from an underflow
    by one more run with every crossing multiplied by a power of two, and, for what crosses nothing, every skip: a
    true zero stays one.

    Args:
        paths: The live forward pass.
        exact: What was measured on it.
        norms: [K+1], of its gradients.
        counts: Lengths that have no path are no loss.
        engine: As in `path_gradients`.
    """
    numbers = torch.finfo(torch.float64 if exact.lifted else exact.dtype)
    floor = numbers.tiny / numbers.eps
    sizes = norms.tolist()
    small = [
        not counts.none(length) and size <= floor for length, size in zip(exact.lengths, sizes, strict=True)
    ]
    lost = [is_small and size > 0 for is_small, size in zip(small, sizes, strict=True)]
    zeros = [length for length, is_small in enumerate(small) if is_small and not lost[length]]
    if not zeros:
        return lost
    kept = [length for length, size in enumerate(sizes) if size > floor and length < zeros[0]]
    factors = [math.ldexp(1.0, _step(sizes, kept, exact.dtype))] * len(paths.branches)
    larger = paths.graded(zeros[-1], signs=factors, engine=engine).gradients
    shown = _shown(larger)
    if zeros[0] == 0:
        shown[0] = shown[0] or _lifted_skips(paths, counts, exact.dtype, engine)
    gone = False
    for length in range(len(sizes)):
        gone = gone or lost[length] or (length in zeros and shown[length])
        lost[length] = lost[length] or (gone and length in zeros)
    return lost


def _lifted_skips(paths: Paths, counts: Counts, dtype: torch.dtype, engine: str) -> bool:
    """Whether what crosses nothing shows when each skip it takes is multiplied; asked of chains only.

    Tried with several powers, for the largest overflow in many blocks and the smallest do not lift enough in few.
    """
    if counts.links is None:
        return False
    steps = [2**power for power in range(_LARGEST_STEP.get(dtype, 10).bit_length())]
    carries = torch.tensor([math.ldexp(1.0, step) for step in steps], dtype=torch.float64)
    found = paths.gated(
        torch.zeros(len(steps), len(paths.branches), dtype=torch.float64),
        carries[:, None].expand(-1, len(paths.junctions)),
        engine=engine,
    )
    return bool((torch.isfinite(found) & (found != 0)).any())


def lost_combinations(
    sizes: Sequence[float], numbers: Sequence[int | None], powers: Powers, dtype: torch.dtype
) -> list[str]:
    """For each combination of lengths why its gradient is unknown; empty where it is not.

    Lost is what is below the smallest number with its digits; and a zero of which there are paths, if one crossing less
    leaves so little that one more may have taken the rest.

    Args:
        sizes: Norms, in the order of `powers`.
        numbers: Of paths; None where unknown.
        powers: The combinations.
        dtype: Of the backward passes.
    """
    precise = torch.finfo(dtype)
    floor = precise.tiny / precise.eps
    near = math.ldexp(floor, _LARGEST_STEP.get(dtype, 10))
    why: dict[tuple[int, ...], str] = {}
    size_of = dict(zip(powers.indices(), sizes, strict=True))
    name = str(dtype).removeprefix("torch.")
    for index, number in zip(powers.indices(), numbers, strict=True):
        size = size_of[index]
        before = [powers.below(index, variable) for variable in range(len(index))]
        doubtful = any(b is not None and (why[b] or 0 < size_of[b] < near) for b in before)
        why[index] = ""
        if number != 0 and 0 < size <= floor:
            why[index] = f"below what {name} holds: pass precision=torch.float64 or shorter lengths"
        elif number != 0 and size == 0 and doubtful:
            why[index] = f"0 or below what {name} holds: pass precision=torch.float64 or shorter lengths"
    return list(why.values())


def _step(sizes: list[float], kept: list[int], dtype: torch.dtype) -> int:
    """The power of two that makes up for what a crossing takes away, as far as lengths before show."""
    largest = _LARGEST_STEP.get(dtype, 10)
    if len(kept) < 2:
        return largest
    fall = math.log2(sizes[kept[0]] / sizes[kept[-1]]) / (kept[-1] - kept[0])
    return min(max(round(fall), 0), largest)


def _shown(gradients: Tensor | dict[str, Tensor]) -> list[bool]:
    """For each length whether anything but zero is there."""
    several = gradients.values() if isinstance(gradients, dict) else [gradients]
    rows = torch.stack([(part.flatten(start_dim=1) != 0).any(dim=1) for part in several])
    return rows.any(dim=0).tolist()
