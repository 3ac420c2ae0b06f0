"""How many directions do a convolutional network's gradients fill?

The claim: with depth, the gradients of different images get as unrelated as white noise, faster without skips, and
slower with a small beta (Balduzzi et al. 2017, arXiv:1702.08591, section 4).

    python -m analyses.effective_rank      half a minute on two cores
    writes reports/effective_rank/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import effective_rank as cells
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: tuple[int, ...] = (8, 20, 50)
    minibatches: int = 4
    shown: int = 48


DEEP = 50
"""The depth that the claims name."""

PRESETS = {"quick": Preset(), "standard": Preset(layers=(8, 14, 20, 32, 50, 110), minibatches=30)}

READING = """
The stable rank of 256 gradients is the sum of their squared lengths over the largest eigenvalue of their Gram matrix:
1 if all are along one line. It is divided by what white noise of the same shape has, so that 1 means "as unrelated as
noise". Networks are fresh, gradients those of the summed outputs at the input, batch statistics frozen.

The matrices of cosines are of one network each, its images in the order of a clustering of the shallowest network's
gradients, which each family keeps: blocks that are still seen in the deepest network are groups it shares with it.

The paper's networks see 32 x 32 images. On the embedded digits of 8 x 8 pixels the third stage works on 2 x 2 places,
so that a gradient has 64 numbers to spread over and the readout's average keeps some of them alike.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images, options = PRESETS[settings.preset], settings.data_set(), settings.sweeping()
    shared = {"key": {"data": images.sha256}, "constants": {"root": settings.root}, **options}
    condition = {"family": cells.FAMILIES, "layers": size.layers, "data": settings.data}
    ranks = gs.sweep(
        cells.effective_rank,
        gs.grid(**condition, minibatches=size.minibatches, seed=settings.seeds),
        **shared,
    )
    ends = {
        "layers": (min(size.layers), max(size.layers)),
        "shallowest": min(size.layers),
        "shown": size.shown,
    }
    cosines = gs.sweep(cells.cosine_picture, gs.grid(**(condition | ends), seed=settings.seeds[:1]), **shared)
    return Section(
        name="effective_rank",
        title="How many directions do the gradients of images fill?",
        question="Do gradients of different images become as unrelated as noise, and do skips help?",
        reading=READING,
        verdicts=judged(claims(ranks, size), settings={"S9": told(settings, size)}),
        pictures=pictures(ranks, cosines, size),
        tables={"effective_rank": ranks, "cosines": cosines},
    )


def told(settings: Settings, size: Preset) -> str:
    """What the row of every claim says of the measurement."""
    ends = f"{min(size.layers)} and {DEEP} layers"
    batches = f"{size.minibatches} minibatches of 256 a seed"
    return f"{settings.preset}; {settings.data}, {ends}, {batches}, at initialisation"


def claims(ranks: pd.DataFrame, size: Preset) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    relative = where(ranks, quantity="relative_effective_rank")
    deep, shallow = DEEP, min(size.layers)
    plain = per_seed(relative, family="plain", layers=deep)
    residual = per_seed(relative, family="residual, beta 1", layers=deep)
    return {
        ("S9", "plain"): plain - per_seed(relative, family="plain", layers=shallow),
        ("S9", "skips"): plain - residual,
        ("S9", "beta"): residual - per_seed(relative, family="residual, beta 0.1", layers=deep),
    }


def pictures(ranks: pd.DataFrame, cosines: pd.DataFrame, size: Preset) -> tuple[Picture, ...]:
    """The rank against depth, and the matrices behind it."""
    relative = where(ranks, quantity="relative_effective_rank").rename(columns={"layers": "depth"})
    drawn = cosines.assign(site=cosines["family"] + ", " + cosines["layers"].astype(str) + " layers")
    return (
        Picture(
            "effective_rank",
            gs.figures.correlation_against_depth(
                relative.drop(columns="quantity"),
                y_scale="linear",
                y_label="relative effective rank (dimensionless)",
            ),
            "Relative effective rank of the input gradients of 256 images against depth. At 1 they are as unrelated as "
            "white noise.",
            "Relative effective rank against depth for a plain network and residual ones with beta 1 and 0.1.",
        ),
        Picture(
            "cosines",
            gs.figures.cosine_matrix(drawn, order="given"),
            f"Cosines between the gradients of {size.shown} images, shallowest and deepest networks, in an order that "
            "each family keeps. Blocks are images that a network treats alike.",
            "Square matrices of cosines for three families, each at its smallest and its largest depth.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
