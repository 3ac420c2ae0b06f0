"""Do skips and batch normalisation smooth the loss?

The density of the Hessian's eigenvalues with and without skips, with and without batch normalisation, before and after
training (Ghorbani et al. 2019, arXiv:1901.10159; Yao et al. 2020, arXiv:1912.07145), and how far a minibatch's largest
eigenvalue is from that of the images it was drawn from.

    python -m analyses.smoothness      five minutes on two cores
    writes reports/smoothness/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import smoothness as cells
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 20
    epochs: int = 4
    images: int = 64
    steps: int = 20
    sizes: tuple[int, ...] = (8, 16, 32)
    draws: int = 5


PRESETS = {
    "quick": Preset(),
    "standard": Preset(epochs=15, images=512, steps=60, sizes=(16, 32, 64, 128, 256)),
}

STATES = ("at initialisation", "trained")

READING = """
Four networks that differ by nothing but skips and batch normalisation, with the same learning rate, the same order of
the data and the same seeds. Without normalisation the convolutions have biases. The Hessian is that of the mean
cross-entropy on a fixed set of training images, with stored batch-norm statistics; before training, those of these
images.

Densities are drawn to the resolution that their products allow: within the shaded band around zero nothing is known
but the mass in it, and weights that do not matter at all (zero rows) are counted. Single large eigenvalues stand
apart as ticks with their residual bounds.

The largest eigenvalue of a minibatch is biased upwards, since the largest of a mean is at most the mean of the
largest. The last picture shows by how much: every number here is one for the images it names, not for the data set.

Eigenvalues depend on the scale of the weights, which normalisation makes arbitrary: a network whose weights grow
under batch normalisation has smaller eigenvalues without being any smoother to walk on.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, data, options = PRESETS[settings.preset], settings.data_set(), settings.sweeping()
    shared = {"layers": size.layers, "epochs": size.epochs, "data": settings.data, "images": size.images}
    kept = {"root": settings.root, "folder": settings.cache / "networks"}
    measured = gs.sweep(
        cells.spectrum,
        gs.grid(
            network=cells.NETWORKS, state=STATES, **shared, lanczos_steps=size.steps, seed=settings.seeds
        ),
        key={"data": data.sha256},
        constants=kept,
        **options,
    )
    drawn = [
        {"network": network, **shared, "sizes": size.sizes, "draws": size.draws, "seed": settings.seeds[0]}
        for network in ("skips, batch norm", "no skips, none")
    ]
    bias = gs.sweep(cells.bias, drawn, key={"data": data.sha256}, constants=kept, **options)
    bias = bias.drop(columns=["sizes", "draws"])
    told = f"{settings.preset}; {settings.data}, {size.layers} layers, {size.epochs} epochs, {size.images} images"
    return Section(
        name="smoothness",
        title="Do skips and batch normalisation smooth the loss?",
        question="How do skips and batch normalisation change the eigenvalues of the Hessian?",
        reading=READING,
        verdicts=judged(claims(measured), settings=told),
        pictures=pictures(measured, bias, settings),
        tables={"spectra_of_networks": measured, "minibatch_bias": bias},
    )


def claims(measured: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed: logarithms of ratios."""

    largest = where(measured, quantity="lambda_max")
    # One that has not converged is no number to compare, and leaves its seed without one.
    largest = largest.assign(value=largest["value"].where(largest["status"] == "ok"))

    def top(network: str, state: str) -> pd.Series:
        return per_seed(largest, network=network, state=state).map(np.log10)

    def spread(network: str) -> pd.Series:
        square = per_seed(measured, network=network, state="trained", quantity="mean_square_eigenvalue")
        return square.map(np.log10) / 2

    with_both, without_skips, without_norm = "skips, batch norm", "no skips, batch norm", "skips, none"
    return {
        ("H8", "skips, trained"): top(with_both, "trained") - top(without_skips, "trained"),
        ("H8", "batch norm, trained"): top(with_both, "trained") - top(without_norm, "trained"),
        ("H8", "skips, at initialisation"): top(with_both, STATES[0]) - top(without_skips, STATES[0]),
        ("H8", "batch norm, at initialisation"): top(with_both, STATES[0]) - top(without_norm, STATES[0]),
        ("H8", "skips, density"): spread(with_both) - spread(without_skips),
        ("H8", "batch norm, density"): spread(with_both) - spread(without_norm),
    }


def pictures(measured: pd.DataFrame, bias: pd.DataFrame, settings: Settings) -> tuple[Picture, ...]:
    """Densities before and after training, and the bias of minibatches."""
    shown = where(measured, seed=settings.seeds[0])
    return (
        Picture(
            "density",
            gs.figures.spectral_density(shown, hue="network", panels="state"),
            "Spectral density of the Hessian with and without skips and batch normalisation, before and after "
            "training, of one seed. Bands are over probes; ticks are single eigenvalues with their bounds.",
            "Spectral densities of four networks at initialisation and trained, most of their mass near zero, with a "
            "few large eigenvalues.",
        ),
        Picture(
            "minibatch",
            gs.figures.minibatch_curvature(bias, hue="network"),
            "The largest eigenvalue on minibatches against the number of images in them; the line is that of all.",
            "Largest eigenvalue of the Hessian against minibatch size for two networks: above the full-data line, and "
            "closing in on it.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
