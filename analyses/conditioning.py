"""How ill-conditioned is the Hessian, and does the length of shortcuts decide it?

At the zero point of deep linear networks, shortcuts over two layers make the Hessian's condition number
independent of depth; over one layer it grows with depth as in plain networks; over three, the start is flat (Li
et al. 2016, arXiv:1611.01186). Dense Hessians are laid beside the closed forms, and the spectra of a trained
plain and residual network are read with error bars.

    python -m analyses.conditioning      a minute on two cores
    writes reports/conditioning/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import conditioning as cells
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: tuple[int, ...] = (2, 4, 6, 12)
    trained_layers: int = 20
    epochs: int = 4
    images: int = 256
    steps: int = 40


PRESETS = {"quick": Preset(), "standard": Preset(layers=(2, 4, 6, 12, 18), epochs=15, images=512, steps=80)}

CLAIMED_LAYERS = 12
"""The depth at which H5 is judged, whatever else is measured."""

READING = """
There is no single condition number of an indefinite matrix. The one drawn is the largest absolute
eigenvalue over the 10th percentile of the absolute eigenvalues, as in the paper's experiments; the smallest
one is erratic. Always look at the largest eigenvalue beside it: a flat network has a ratio without meaning,
or, as the 3-shortcut network at zero, none.

At the zero point the 2-shortcut network's eigenvalues are plus and minus the singular values of G, the
correlation of residual and input, whatever the depth. Depth only repeats them. Exact claims are judged on
every seed, where a seed is another draw of 600 digits.

For the trained networks, extreme eigenvalues come from one Lanczos run, each with its residual bound. The
density is smoothed to the resolution that its products allow: nothing narrower than the shaded width is
real.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images, options = PRESETS[settings.preset], settings.data_set(), settings.sweeping()
    grid = gs.grid(network=cells.LINEAR, layers=size.layers, seed=settings.seeds)
    grid = [cell for cell in grid if cell["layers"] % max(1, cells.LINEAR[cell["network"]][0]) == 0]
    linear = gs.sweep(cells.linear_hessian, grid, **options)
    order = gs.sweep(cells.loss_order, gs.grid(layers=6, seed=settings.seeds), **options)
    fixed = {"layers": size.trained_layers, "epochs": size.epochs, "data": settings.data}
    trained = gs.sweep(
        cells.trained_spectrum,
        gs.grid(
            family=["plain", "resnet"],
            **fixed,
            images=size.images,
            lanczos_steps=size.steps,
            seed=settings.seeds[:1],
        ),
        key={"data": images.sha256},
        constants={"root": settings.root, "folder": settings.cache / "networks"},
        **options,
    )
    summary = linear[~linear["quantity"].isin(["eigenvalue", "closed_form"])]
    return Section(
        name="conditioning",
        title="How ill-conditioned is the Hessian?",
        question="How does the Hessian's condition number depend on depth and on the length of shortcuts?",
        reading=READING,
        verdicts=judged(
            claims(linear, order),
            settings=f"{settings.preset}; 600 digits, 10 whitened components, half squared error, float64",
        ),
        pictures=pictures(linear, trained, size, settings),
        tables={
            **{"linear": summary, "loss_order": order, "trained": trained},
            "spectra": where(linear, quantity="eigenvalue", seed=settings.seeds[0]).dropna(
                axis="columns", how="all"
            ),
        },
    )


def claims(linear: pd.DataFrame, order: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    percentile = where(linear, definition="percentile_10")
    deep = max(layers for layers in percentile["layers"] if layers <= CLAIMED_LAYERS)

    def growth(network: str) -> pd.Series:
        ratio = per_seed(percentile, network=network, layers=deep) / per_seed(
            percentile, network=network, layers=2
        )
        return ratio.map(np.log10)

    def worst(quantity: str) -> pd.Series:
        return where(linear, quantity=quantity).groupby("seed")["value"].agg(lambda v: v.max(skipna=False))

    largest = where(linear, network="1-shortcut, zero", quantity="lambda_max")
    negative = where(linear, network="2-shortcut, zero", quantity="share_negative")
    return {
        ("H1", "condition number"): worst("condition_deviation"),
        ("H1", "spectrum"): worst("spectrum_deviation"),
        ("H2", "equal Hessians"): worst("difference_from_identity_start"),
        ("H2", "growth"): largest.groupby("seed")[["layers", "value"]].apply(_straightness),
        ("H3", "flat"): worst("largest_entry"),
        ("H3", "order"): per_seed(order, quantity="order"),
        ("H4", ""): negative.groupby("seed")["value"].agg(_farthest_from_half),
        ("H5", "Xavier"): growth("plain, Xavier"),
        ("H5", "orthogonal"): growth("plain, orthogonal"),
    }


def _farthest_from_half(shares: pd.Series) -> float:
    """The share, of those at all depths of one seed, that is the least like one half."""
    return float(shares.iloc[int((shares - 0.5).abs().argmax())])


def _straightness(rows: pd.DataFrame) -> float:
    """Increase per layer over the deeper half of the depths over that over the shallower: 1 for a line."""
    line = rows.set_index("layers")["value"].sort_index()
    first, middle, last = line.index[0], line.index[len(line) // 2], line.index[-1]
    return float(
        (line[last] - line[middle]) / (last - middle) * (middle - first) / (line[middle] - line[first])
    )


def theory(size: Preset, settings: Settings) -> pd.DataFrame:
    """The closed form of 2-shortcut networks, the same for every depth; of the first seed's data."""
    x, y = cells.whitened_digits(settings.seeds[0])
    correlation = gs.theory.residual_correlation_matrix(x.numpy(), y.numpy())
    sigma = np.linalg.svd(correlation, compute_uv=False)
    values = {"condition_number": sigma[0] / np.percentile(sigma, 10), "lambda_max": sigma[0]}
    rows = [(quantity, layers, value) for quantity, value in values.items() for layers in size.layers]
    frame = pd.DataFrame(rows, columns=["quantity", "layers", "value"])
    return frame.assign(network="2-shortcut, zero", law="singular values of G")


def pictures(
    linear: pd.DataFrame, trained: pd.DataFrame, size: Preset, settings: Settings
) -> tuple[Picture, ...]:
    """Condition number against depth, the spectrum over its closed form, and trained networks' densities."""
    ratios = where(linear, quantity=["condition_number", "lambda_max"])
    ratios = ratios[ratios["definition"].isin(["percentile_10"]) | (ratios["quantity"] == "lambda_max")]
    stems = where(
        linear, network="2-shortcut, zero", quantity=["eigenvalue", "closed_form"], seed=settings.seeds[0]
    )
    return (
        Picture(
            "condition",
            gs.figures.condition_against_depth(ratios, theory(size, settings)),
            "Condition number (largest over 10th percentile of the absolute eigenvalues) and largest "
            "eigenvalue against depth. Only the 2-shortcut network is flat, on its closed form; the "
            "3-shortcut one has no curvature at all.",
            "Condition number and largest eigenvalue against number of layers for five linear networks: "
            "plain ones and the 1-shortcut network grow, the 2-shortcut network stays at its closed form.",
        ),
        Picture(
            "spectrum",
            gs.figures.eigenvalue_stems(stems.assign(blocks=stems["layers"] // 2)),
            "All eigenvalues of 2-shortcut networks at zero over plus and minus the singular values of G. "
            "More blocks repeat the same values; they add none.",
            "Stem plots of the spectrum for several numbers of blocks: the same places, symmetric about "
            "zero.",
        ),
        Picture(
            "density",
            gs.figures.spectral_density(trained),
            f"Spectral density of the Hessian of trained networks of {size.trained_layers} layers, without "
            f"and with skips, on {size.images} training images. Ticks are single eigenvalues with their "
            "bounds.",
            "Spectral density of a plain and a residual network, most of it at zero, with a few large "
            "eigenvalues.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
