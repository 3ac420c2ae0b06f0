"""Rows of what single sampled paths say: the mean norm of one, and Veit's product."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.gradients.split import Paths
from gradscope.measures.correlation import Estimate
from gradscope.studies.paths.counts import NO_PATH, Counts, as_float
from gradscope.studies.paths.estimates import FEWEST_PATHS, heavy_tailed_mean, over_examples
from gradscope.studies.paths.norms import Parts
from gradscope.studies.paths.rows import row
from gradscope.studies.paths.sampled import drawn_paths, path_norms
from gradscope.studies.paths.spectrum_rows import Lengths, Row

NO_CHAIN = "single paths are drawn in chains only, where masks on branches and skips leave one path"
FEW = f"fewer than {FEWEST_PATHS} paths give no interval"
NO_NORM = "no path that was drawn has a norm above zero"


@dataclass(frozen=True)
class SampledNorms:
    """Norms of single paths of one length.

    Attributes:
        norms: [M, E], float64.
        every: Whether these are all paths of that length rather than a sample.
    """

    norms: Tensor
    every: bool


def sampled_rows(
    paths: Paths,
    parts: Parts,
    lengths: Lengths,
    norms: Tensor,
    sampled: int,
    seed: int,
    engine: str,
) -> list[Row]:
    """Mean norm of one path by sampling, its product with the number of paths, and how much the largest draw was.

    Args:
        paths: The live forward pass.
        parts: What each norm is taken of.
        lengths: As given to all.
        norms: Of the gradients of each length, which say how small a path's may get, [K+1].
        sampled: Paths per length.
        seed: Of the paths and of the bootstrap.
        engine: As in `path_gradients`.
    """
    counts = lengths.counts
    usable = [k for k in range(len(lengths)) if _usable(lengths, k)]
    crossed = drawn_paths(counts, usable, sampled, random.Random(seed))
    lifts = [_lift(norms.tolist(), counts, length) for length in usable]
    drawn: list[SampledNorms | None] = [None] * len(lengths)
    if usable:
        every_lift = [lift for lift, some in zip(lifts, crossed, strict=True) for _ in some]
        found = path_norms(paths, parts, [path for some in crossed for path in some], every_lift, engine)
        for length, part in zip(usable, found.split([len(some) for some in crossed]), strict=True):
            drawn[length] = SampledNorms(part, len(part) == counts.of(length))
    resampling = torch.Generator().manual_seed(seed)
    means = [_mean(sample, resampling) for sample in drawn]
    products = [
        Estimate(*(end * _number(counts, length) for end in mean)) for length, mean in enumerate(means)
    ]
    total = sum(product.value for product in products if math.isfinite(product.value))
    rows: list[Row] = []
    for length, (sample, mean, product) in enumerate(zip(drawn, means, products, strict=True)):
        shared = _columns(sample, length, mean, lengths)
        rows.append(row("mean_path_norm", lengths.unit, mean.value, low=mean.low, high=mean.high, **shared))
        rows.append(
            row(
                "sampled_veit_product",
                lengths.unit,
                product.value,
                low=product.low,
                high=product.high,
                **shared,
            )
        )
        share = [end / total if total else math.nan for end in product]
        rows.append(row("sampled_veit_product_share", "1", share[0], low=share[1], high=share[2], **shared))
        largest = shared | {"reason": "", "undefined": NO_NORM if sample is not None else shared["undefined"]}
        rows.append(row("largest_draw_share", "1", _largest(sample), **largest))
    return rows


def _usable(lengths: Lengths, length: int) -> bool:
    """Whether single paths of that length can be drawn."""
    return lengths.counts.links is not None and not lengths.counts.none(length) and not lengths.lost[length]


def _mean(found: SampledNorms | None, generator: torch.Generator) -> Estimate:
    if found is None:
        return Estimate(math.nan, math.nan, math.nan)
    if not found.every:
        return heavy_tailed_mean(found.norms, generator)
    value, low, high = (float(end) for end in over_examples(found.norms.mean(dim=0)[None]))
    return Estimate(value, max(0.0, low) if math.isfinite(low) else low, high)


def _columns(found: SampledNorms | None, length: int, mean: Estimate, lengths: Lengths) -> Row:
    if found is None:
        why = (
            NO_PATH
            if lengths.counts.none(length)
            else lengths.lost[length] or lengths.counts.reason or NO_CHAIN
        )
        return {"path_length": length, "estimator": "sampled paths", "n": 0, "undefined": why}
    drawn = len(found.norms)
    few = not found.every and not math.isfinite(mean.low)
    return {
        "path_length": length,
        "estimator": "all paths" if found.every else "sampled paths",
        "n": drawn,
        "reason": FEW if few else "",
        "undefined": "more paths than a float holds",
    }


def _largest(found: SampledNorms | None) -> float:
    if found is None:
        return math.nan
    sizes = found.norms.mean(dim=1)
    total = float(sizes.sum())
    return float(sizes.max()) / total if total > 0 else math.nan


def _number(counts: Counts, length: int) -> float:
    number = counts.of(length)
    return math.nan if number is None else as_float(number)


def _lift(norms: Sequence[float], counts: Counts, length: int) -> int:
    """The power of two that makes up for what one crossing takes away, judged by the gradients of all paths."""
    number = counts.of(length)
    if length == 0 or not number or not norms[length] > 0:
        return 0
    first = next((place for place, norm in enumerate(norms) if norm > 0), length)
    if first == length:
        return 0
    fall = math.log2(norms[first] / norms[length]) + math.log2(number) / 2
    return max(0, round(fall / (length - first)))
