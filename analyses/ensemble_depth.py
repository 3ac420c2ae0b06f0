"""Does the ensemble of paths get deeper during training?

Batch normalisation is said to make short paths dominate in a fresh residual network, and training to make the
ensemble deeper (Littwin & Wolf 2016, arXiv:1611.02525). The first follows from the branches' gains, without a
parameter to fit; the second is watched along training.

    python -m analyses.ensemble_depth      a minute on two cores
    writes reports/ensemble_depth/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import ensemble_depth as cells
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    fresh_layers: int = 56
    layers: int = 32
    epochs: int = 4
    images: int = 64
    draws: int = 4
    observations: int = 10


PRESETS = {
    "quick": Preset(),
    "standard": Preset(fresh_layers=110, layers=110, epochs=15, images=128, draws=16, observations=30),
}

READING = """
A branch that multiplies the squared gradient by chi, where its skip hands it on as it is, is crossed with the odds
chi to 1. In a fresh network with batch normalisation the stream's variance grows with every block and the branch is
divided by it, so chi falls along the network and most paths that matter are short. The law takes the variance of the
stem's output from the network itself and nothing else. It is one of wide layers and large images: it leaves out the
padded border, which 8x8 pixels are full of.

Along training, the mean path length is that of the signed shares of the gradient: what arrives, not what norms of
paths add up to. Beside it stands the length that the forward sizes of the branches imply if paths added up
as Littwin and Wolf assume. Total coherence is the squared gradient over what it would be if paths were orthogonal.
Both are measured on fixed training images, with batch normalisation differentiated through. A prediction of a
direction is judged by the curve's ends; look at the curve.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images = PRESETS[settings.preset], settings.data_set()
    shared = {"data": settings.data, "images": size.images, "draws": size.draws, "seed": settings.seeds}
    sweeping = {"key": {"data": images.sha256}, "constants": {"root": settings.root}, **settings.sweeping()}
    start = gs.sweep(cells.at_start, gs.grid(layers=size.fresh_layers, **shared), **sweeping)
    training = gs.sweep(
        cells.along_training,
        gs.grid(layers=size.layers, epochs=size.epochs, observations=size.observations, **shared),
        **sweeping,
    )
    told = (
        f"{settings.preset}; {settings.data}, {size.images} training images, ResNet-{size.fresh_layers} fresh, "
        f"ResNet-{size.layers} along {size.epochs} epochs"
    )
    return Section(
        name="ensemble_depth",
        title="Does the ensemble get deeper?",
        question="How long are the paths of a fresh network, and do they get longer while it learns?",
        reading=READING,
        verdicts=judged(claims(start, training, size), settings=told),
        pictures=pictures(start, training, settings),
        tables={"start": start, "training": training},
    )


def claims(start: pd.DataFrame, training: pd.DataFrame, size: Preset) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    length = {form: per_seed(start, quantity="mean_path_length", form=form) for form in ("measured", "law")}
    blocks = (size.fresh_layers - 2) // 2
    watched = where(training, quantity="mean_path_length")
    first, last = watched["step"].min(), watched["step"].max()
    return {
        ("V12", "short paths"): length["measured"] / blocks,
        ("V12", "the law"): length["measured"] / length["law"],
        ("V13", ""): per_seed(watched, step=last) / per_seed(watched, step=first),
    }


def pictures(start: pd.DataFrame, training: pd.DataFrame, settings: Settings) -> tuple[Picture, ...]:
    """The law on the measurement, and the ensemble's depth along training."""
    seed = settings.seeds[0]
    spectra = where(training, quantity="signed_share", seed=seed)
    return (
        Picture(
            "law",
            gs.figures.path_length_law(where(start, quantity="squared_path_norms_share")),
            "Squared path norms by length in a fresh network: marks measured (95 % over seeds), line the law of "
            "the branches' gains, without a free parameter.",
            "Measured shares by path length on the predicted curve, far to the left of half the blocks.",
        ),
        Picture(
            "depth",
            gs.figures.ensemble_depth(training),
            "Mean path length of the gradient along training, beside the length that branch sizes imply, and total "
            "coherence of the paths (95 % over seeds).",
            "Two panels over training steps: mean path length, measured and implied, and total coherence on a "
            "logarithmic axis.",
        ),
        Picture(
            "spectrum",
            gs.figures.spectrum_over_training(spectra),
            f"Signed share of the gradient by path length along training (seed {seed}).",
            "A heat map of signed shares over training step and path length.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
