"""Which blocks matter? Error after deleting one block, and after deleting many.

Deleting one block of a trained residual network barely matters, and error rises smoothly with the number of
deleted blocks, while a plain network without any one layer is useless (Veit et al. 2016, arXiv:1605.06431).
Measured with the stored batch-norm statistics, as published, and with statistics estimated anew.

    python -m analyses.lesions      two minutes on two cores, most of it training
    writes reports/lesions/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import ensembles as cells
from gradscope.studies.frames import largest_step, means_over_draws, per_seed, trend, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 56
    epochs: int = 4
    plain_layers: int = 15
    sets: tuple[int, ...] = (3, 6, 9, 12, 15)
    subsets: int = 6
    calibration: int = 256
    images: int = 1000


PRESETS = {
    "quick": Preset(),
    "standard": Preset(
        layers=110, epochs=15, sets=(5, 10, 15, 20, 25, 30), subsets=30, calibration=1024, images=10000
    ),
}

READING = """
Each point is the test error after one residual branch has been closed while its skip stays; blocks that
change the shape keep their projection. Compare with the intact error (grey line) and with chance (dotted).
For the plain, VGG-style network a layer is replaced by the identity, which only layers that keep the shape
allow.

Stale statistics are those of the intact network, as in the paper. Recalibrated ones were estimated anew,
without labels, on training images passed through the lesioned network. Where the two differ, the damage was
a mismatch of statistics, not a missing path. V2 judges the median block that keeps the shape, not the
worst. Intervals of single deletions are Wilson's over test images; random sets show the spread over
subsets. A ring marks a deletion after which more images change sides in one direction than in the other by
McNemar's exact test, at 5 % after Holm's adjustment over the network's blocks.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images = PRESETS[settings.preset], settings.data_set()
    shared = {"data": settings.data, "seed": settings.seeds, "epochs": size.epochs}
    networks = gs.grid(family="resnet", layers=size.layers, **shared) + gs.grid(
        family="vgg", layers=size.plain_layers, **shared
    )
    frame = gs.sweep(
        cells.lesions,
        networks,
        key={"data": images.sha256, "size": repr(size)},
        constants={
            **{
                "sets": size.sets,
                "subsets": size.subsets,
                "calibration": size.calibration,
                "images": size.images,
            },
            **{"root": settings.root, "folder": settings.cache / "networks"},
        },
        **settings.sweeping(),
    )
    told = f"{settings.preset}; {settings.data}, ResNet-{size.layers} and VGG-{size.plain_layers}, {size.epochs} epochs"
    return Section(
        name="lesions",
        title="Which blocks matter?",
        question="What does a trained network lose when blocks are deleted, one at a time or many together?",
        reading=READING,
        verdicts=judged(claims(frame), settings=told),
        pictures=pictures(frame, settings),
        tables={"lesions": frame},
    )


def claims(frame: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    stale, renewed = (where(frame, family="resnet", statistics=kind) for kind in ("stale", "recalibrated"))
    intact = per_seed(stale, quantity="intact_error")
    single = where(stale, quantity="error", draw=-1)
    identity = where(single, kind="identity").groupby("seed")["value"].agg(lambda v: v.median(skipna=False))
    sets = where(stale, kind="set", quantity="error")
    plain = where(frame, family="vgg", statistics="stale")
    layers = where(plain, quantity="error", status=["ok", "undefined"]).groupby("seed")["value"]
    means = {name: _means(rows) for name, rows in {"stale": stale, "recalibrated": renewed}.items()}
    rise = {name: table.iloc[:, -1] - table.iloc[:, 0] for name, table in means.items()}
    return {
        ("V2", "identity blocks"): identity - intact,
        ("V2", "shape-changing blocks"): per_seed(single, kind="projection") - identity,
        ("V2", "plain network"): layers.agg(lambda v: v.min(skipna=False))
        / per_seed(plain, quantity="chance_error"),
        ("V3", "rises"): pd.Series(
            {s: trend(rows["deleted"], rows["value"]) for s, rows in sets.groupby("seed")}
        ),
        ("V3", "smoothly"): largest_step(means["stale"]),
        ("V10", ""): (rise["recalibrated"] / rise["stale"]).where(rise["stale"] > 0),
    }


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean error: a row per seed, a column per number deleted, 0 included."""
    means = means_over_draws(where(rows, kind="set", quantity="error"), "deleted")
    means.insert(0, 0, per_seed(rows, quantity="intact_error"))
    return means


def pictures(frame: pd.DataFrame, settings: Settings) -> tuple[Picture, ...]:
    """Single deletions of one seed's networks, then random sets of all seeds."""
    first = where(frame, seed=settings.seeds[0])
    drawn = ["error", "error_difference", "intact_error", "chance_error"]
    single = where(first, quantity=drawn, draw=-1)
    return (
        Picture(
            "single",
            gs.figures.lesions(single),
            f"Error after deleting each block (seed {settings.seeds[0]}). Most residual blocks that keep the "
            "shape barely matter, but the very first can cost as much as those that change it (hollow). No "
            "layer of the plain network is to be spared.",
            "Test error by position of the deleted block, for a residual and a plain network, with stale "
            "and recalibrated batch-norm statistics, beside intact error and chance.",
        ),
        Picture(
            "sets",
            gs.figures.lesion_sets(where(frame, family="resnet", kind="set")),
            "Error after deleting random sets of blocks, all seeds. With the stored statistics it climbs "
            "towards chance; with statistics estimated anew most of the climb is gone.",
            "Test error against the number of deleted blocks: steep with stale statistics, shallow with "
            "recalibrated ones.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
