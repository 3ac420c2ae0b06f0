"""Does the order of the blocks matter? Error after blocks of a trained network change places.

A residual network's error rises smoothly as its blocks are re-ordered (Veit et al. 2016, arXiv:1605.06431,
figure 5b), and exchanging blocks of one stage is mild where exchanging layers of a plain network is fatal (Greff
et al. 2017, arXiv:1612.07771).

    python -m analyses.reordering      a minute on two cores, where the networks are trained already
    writes reports/reordering/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import iterative as cells
from gradscope.studies.frames import largest_step, means_over_draws, per_seed, trend, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 56
    epochs: int = 4
    plain_layers: int = 15
    swaps: tuple[int, ...] = (1, 2, 3, 4, 6, 9, 15)
    draws: int = 6
    calibration: int = 256
    images: int = 1000


PRESETS = {
    "quick": Preset(),
    "standard": Preset(
        layers=110, epochs=15, swaps=(1, 2, 4, 6, 9, 14, 30), draws=30, calibration=1024, images=10000
    ),
}

READING = """
Each point is the test error with pairs of blocks exchanged, always within a stage, so that shapes fit; blocks that
change the shape stay where they are. Kendall's tau compares the new order with the old over all blocks: 1 is the
trained order. It cannot reach 0 here, because blocks never leave their stage.

Stale statistics are those of the order the network was trained in, as in the paper; recalibrated ones were
estimated anew, without labels, on training images in the new order. In the plain, VGG-style network two
neighbouring layers of equal shape change places. "Mild" means: no more than two percentage points for
two neighbouring blocks (as in V2), and below half of chance for whole stages in random order.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images = PRESETS[settings.preset], settings.data_set()
    shared = {"data": settings.data, "seed": settings.seeds, "epochs": size.epochs}
    networks = gs.grid(family="resnet", layers=size.layers, **shared) + gs.grid(
        family="vgg", layers=size.plain_layers, **shared
    )
    frame = gs.sweep(
        cells.reorderings,
        networks,
        key={"data": images.sha256, "size": repr(size)},
        constants={
            **{"swaps": size.swaps, "draws": size.draws},
            **{"calibration": size.calibration, "images": size.images},
            **{"root": settings.root, "folder": settings.cache / "networks"},
        },
        **settings.sweeping(),
    )
    told = f"{settings.preset}; {settings.data}, ResNet-{size.layers} and VGG-{size.plain_layers}, {size.epochs} epochs"
    return Section(
        name="reordering",
        title="Does the order of the blocks matter?",
        question="What does a trained network lose when its blocks run in another order?",
        reading=READING,
        verdicts=judged(claims(frame), settings=told),
        pictures=pictures(frame),
        tables={"orders": frame},
    )


def claims(frame: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    stale = where(frame, family="resnet", statistics="stale")
    error = where(stale, quantity="error")
    drawn = where(error, intervention="swaps")
    intact, chance = (per_seed(stale, quantity=f"{name}_error") for name in ("intact", "chance"))
    neighbours = _median(where(error, intervention="neighbour swap"))
    plain = where(frame, family="vgg", statistics="stale")
    exchanged = _median(where(plain, quantity="error", intervention="neighbour swap"))
    means = means_over_draws(drawn, "swaps")
    means.insert(0, 0, intact)
    return {
        ("V4", "rises"): pd.Series(
            {s: trend(rows["kendall_tau"], rows["value"]) for s, rows in drawn.groupby("seed")}
        ),
        ("V4", "smoothly"): largest_step(means),
        ("G3", "residual blocks swapped"): neighbours - intact,
        ("G3", "residual stages shuffled"): per_seed(error, intervention="random order") / chance,
        ("G3", "plain layers swapped"): exchanged / per_seed(plain, quantity="chance_error"),
    }


def _median(rows: pd.DataFrame) -> pd.Series:
    """Median for each seed; one undefined value makes its seed undefined."""
    return rows.groupby("seed")["value"].agg(lambda values: values.median(skipna=False))


def pictures(frame: pd.DataFrame) -> tuple[Picture, ...]:
    """Error against Kendall's tau, all seeds."""
    drawn = where(frame, family="resnet", intervention=["swaps", "random order", ""])
    return (
        Picture(
            "orders",
            gs.figures.reordering(where(drawn, quantity=["error", "intact_error", "chance_error"])),
            "Error against Kendall's tau of the new order, all seeds: pairs exchanged within stages, up to stages "
            "in random order.",
            "Test error rising as Kendall's tau falls from 1, with stale and recalibrated batch-norm "
            "statistics, beside intact error and chance.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
