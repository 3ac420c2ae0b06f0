"""Do the blocks of a residual network refine one estimate, or does each compute something new?

Within a stage every block is said to improve an estimate of the same features (Greff et al. 2017,
arXiv:1612.07771), by steps down the gradient of the loss (Jastrzebski et al. 2018, arXiv:1710.04773) whose
length shrinks as 1 / number of blocks (Chang et al. 2018, arXiv:1710.10348).

    python -m analyses.refinement      a minute and a half on two cores, most of it training
    writes reports/refinement/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import iterative as cells
from gradscope.studies.frames import per_seed, trend, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 56
    epochs: int = 4
    small_layers: int = 20
    scales: tuple[float, ...] = (1 / 16, 1 / 64, 1 / 256)
    small_images: int = 64
    blocks: tuple[int, ...] = (3, 6, 9, 15, 27)
    images: int = 500


PRESETS = {
    "quick": Preset(),
    "standard": Preset(layers=110, epochs=15, blocks=(3, 6, 9, 15, 27, 54), images=2000),
}

READING = """
A stage is a run of blocks at one shape. Greff's estimation error is the mean over images of a block's output
less the stage's last output, for each unit: if blocks refine one unbiased estimate, its mean over units is zero
and its spread shrinks from block to block.

The cosine compares what a block adds with the gradient of the loss at its input: below zero, the block takes a
step down the loss. The ratio is the length of that step over the length of the state. Chang et al. see the
blocks as steps of an integrator, which get shorter as there are more of them: the mean branch norm
would fall as 1 / number of blocks.

To first order, closing a branch F changes the loss by -F . dL/dh. Full branches are not small, so measured and
predicted changes differ; once a branch is scaled down, their ratio has to go to 1.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size = PRESETS[settings.preset]
    shared = {"data": settings.data, "seed": settings.seeds, "epochs": size.epochs}
    blocks = _swept(settings, cells.refinement, gs.grid(layers=size.layers, **shared), size.images)
    small = _swept(
        settings,
        cells.small_branches,
        gs.grid(layers=size.small_layers, scale=size.scales, **shared),
        size.small_images,
    )
    norms = _swept(settings, cells.branch_norm, gs.grid(blocks=size.blocks, **shared), size.images)
    told = f"{settings.preset}; {settings.data}, ResNet-{size.layers}, {size.epochs} epochs"
    return Section(
        name="refinement",
        title="Do blocks refine an estimate?",
        question="Does every block improve the same features, down the gradient of the loss, by ever smaller steps?",
        reading=READING,
        verdicts=judged(claims(blocks, small, norms), settings=told),
        pictures=pictures(blocks, norms, settings),
        tables={"blocks": blocks, "small_branches": small, "norms": norms},
    )


def _swept(settings: Settings, cell: Any, grid: list[dict[str, Any]], images: int) -> pd.DataFrame:
    return gs.sweep(
        cell,
        grid,
        key={"data": settings.data_set().sha256},
        constants={"images": images, "root": settings.root, "folder": settings.cache / "networks"},
        **settings.sweeping(),
    )


def claims(
    blocks: pd.DataFrame, small: pd.DataFrame, norms: pd.DataFrame
) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    place = ["seed", "stage", "position"]
    read = {name: rows.set_index(place)["value"] for name, rows in blocks.groupby("quantity")}
    spread = read["estimation_error_spread"]
    # A stage's last state has no error, by definition.
    position = spread.index.to_frame()["position"]
    before_last = spread[position < position.groupby(["seed", "stage"]).transform("max")]
    bias = abs(read["estimation_error_mean"].reindex(before_last.index) / before_last)
    cosine = where(blocks, quantity="cosine_with_loss_gradient")
    ratio = read["l2_ratio"]
    changes = small.pivot_table(
        index=["seed", "scale", "index"], columns="quantity", values="value", dropna=False
    )
    distance = abs(changes["lesion_loss_change"] / changes["first_order_lesion"] - 1)
    medians = distance.groupby(["seed", "scale"]).agg(lambda values: values.median(skipna=False))
    away = medians.unstack()
    return {
        ("G1", ""): _means(bias),
        ("G2", ""): _falling(before_last),
        ("G4", "descends"): per_seed(cosine),
        ("G4", "later blocks more"): pd.Series(
            {seed: trend(rows["index"], rows["value"]) for seed, rows in cosine.groupby("seed")}
        ),
        ("G5", ""): _first_over_later(ratio),
        ("G6", "small branch"): away[1 / 64],
        ("G6", "order"): away.apply(_slope, axis=1),
        ("G7", ""): norms.set_index(["seed", "blocks"])["value"].unstack().apply(_slope, axis=1),
    }


def _means(values: pd.Series) -> pd.Series:
    """Mean for each seed; one undefined value makes its seed undefined, so that no verdict leaves it out unsaid."""
    return values.groupby("seed").agg(lambda some: some.mean(skipna=False))


def _falling(spread: pd.Series) -> pd.Series:
    """Rank correlation of spread and place in the stage, mean over stages of four blocks or more, the last left out."""
    found = [
        (seed, trend(rows.index.to_frame()["position"], rows))
        for (seed, _), rows in spread.groupby(["seed", "stage"])
        if len(rows) > 2
    ]
    return _means(pd.DataFrame(found, columns=["seed", "value"]).set_index("seed")["value"])


def _first_over_later(ratio: pd.Series) -> pd.Series:
    """The first block's ratio over the largest later one's, geometric mean over stages."""
    position = ratio.index.get_level_values("position")
    first = ratio[position == 1].groupby(["seed", "stage"]).first()
    later = ratio[position > 1].groupby(["seed", "stage"]).agg(lambda some: some.max(skipna=False))
    return _means((first / later).map(np.log)).map(np.exp)


def _slope(values: pd.Series) -> float:
    """Slope of log value against log of the index."""
    return float(np.polyfit(np.log(values.index.to_numpy(float)), np.log(values.to_numpy(float)), 1)[0])


def pictures(blocks: pd.DataFrame, norms: pd.DataFrame, settings: Settings) -> tuple[Picture, ...]:
    """Estimation error, then direction and size of the steps, then their length against the number of blocks."""
    return (
        Picture(
            "estimation-error",
            gs.figures.estimation_error(blocks),
            "Estimation error of every block against the last of its stage: mean over units and its spread. An "
            "unbiased estimate has a mean of zero throughout.",
            "Mean and standard deviation over units of the estimation error, by block, a panel for each stage.",
        ),
        Picture(
            "steps",
            gs.figures.refinement(
                blocks, quantities=("cosine_with_loss_gradient", "l2_ratio", "early_exit_accuracy")
            ),
            "Direction and size of every block's step, and the accuracy when the network ends behind it (last stage "
            "only). Blocks that change the shape are hollow.",
            "Cosine with the loss gradient, ratio of branch to stream norm, and early-exit accuracy, by block.",
        ),
        Picture(
            "lesions",
            gs.figures.refinement(
                where(blocks, seed=settings.seeds[0]), quantities=("first_order_lesion", "lesion_loss_change")
            ),
            f"What closing a block does to the loss, to first order and measured (seed {settings.seeds[0]}). Full "
            "branches are not small, so the two need not agree.",
            "First-order and measured change of the loss after closing each block.",
        ),
        Picture(
            "branch-norms",
            gs.figures.branch_norms(norms),
            "Mean norm of what a block adds against the number of blocks, each point a trained network.",
            "Mean branch norm against the number of blocks on logarithmic axes, beside a line of slope -1.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
