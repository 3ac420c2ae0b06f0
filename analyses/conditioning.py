"""How ill-conditioned is the Hessian, and does the length of shortcuts decide it?

At the zero point of deep linear networks, shortcuts over two layers make the Hessian's condition number
independent of depth; over one layer it grows with depth as in plain networks; over three, the start is flat (Li
et al. 2016, arXiv:1611.01186). Dense Hessians are laid beside the closed forms, those of other losses, maps and
activations too, and beside what biases and ReLUs make of them; and the spectra of a trained plain and residual network
are read with error bars.

    python -m analyses.conditioning      two minutes on two cores
    writes reports/conditioning/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import conditioning as cells
from gradscope.studies.cells import shortcut_theorem as theorem
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

CLAIMED_LAYERS, HEAT_LAYERS = 12, 6
"""The depth at which claims about depth are judged, whatever else is measured; and that of the heat map."""

READING = """
There is no single condition number of an indefinite matrix. The one drawn is the largest absolute
eigenvalue over the 10th percentile of the absolute eigenvalues, as in the paper's experiments; the smallest
one is erratic. Always look at the largest eigenvalue beside it: a flat network has a ratio without meaning,
or, as the 3-shortcut network at zero, none.

At the zero point the 2-shortcut network's eigenvalues are plus and minus the singular values of G, the
correlation of residual and input, whatever the depth. Depth only repeats them. Exact claims are judged on
every seed, where a seed is another draw of 600 digits.

Biases and a ReLU between a branch's layers break the law: rows that say so fail on purpose, for they test the
theorem where it does not claim to hold. At exactly zero a ReLU's slope is taken as 0, so that automatic
differentiation sees no curvature at all; small weights show what is there.

The heat map is the whole Hessian of a 2-shortcut network at zero, layer by layer: nothing on the diagonal, for a
layer alone changes nothing to second order, and all curvature between the two layers of one block. Whatever looks at
layers one by one, or at the Gauss-Newton matrix, sees nothing there.

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
    ends = sorted({2, max(layers for layers in size.layers if layers <= CLAIMED_LAYERS)})
    cases = gs.grid(case=[*theorem.GENERALISED, *theorem.BROKEN], layers=ends, seed=settings.seeds)
    beside = gs.sweep(theorem.beside_its_law, cases, **options)
    heat = gs.sweep(theorem.layer_by_layer, gs.grid(layers=HEAT_LAYERS, seed=settings.seeds[:1]), **options)
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
            claims(linear, order, beside),
            settings=f"{settings.preset}; 600 digits, 10 whitened components, half squared error, float64",
        ),
        pictures=pictures(linear, trained, heat, size, settings),
        tables={
            **{
                "linear": summary,
                "loss_order": order,
                "trained": trained,
                "beside_the_law": beside,
                "heat": heat,
            },
            "spectra": where(linear, quantity="eigenvalue", seed=settings.seeds[0]).dropna(
                axis="columns", how="all"
            ),
        },
    )


def claims(
    linear: pd.DataFrame, order: pd.DataFrame, beside: pd.DataFrame
) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    percentile = where(linear, definition="percentile_10")
    deep = max(layers for layers in percentile["layers"] if layers <= CLAIMED_LAYERS)

    def ratio(frame: pd.DataFrame, **conditions: str) -> pd.Series:
        """What is at the deepest network over what is at two layers."""
        return per_seed(frame, layers=deep, **conditions) / per_seed(frame, layers=2, **conditions)

    def growth(network: str) -> pd.Series:
        return ratio(percentile, network=network).map(np.log10)

    def farthest(cases: list[str]) -> pd.Series:
        rows = where(beside, case=cases, quantity="spectrum_deviation")
        return rows.groupby("seed")["value"].agg(lambda v: v.max(skipna=False))

    rectified, at_zero = "ReLU between, small weights", "ReLU between, zero"
    tens = where(beside, definition="percentile_10")

    def worst(quantity: str) -> pd.Series:
        return where(linear, quantity=quantity).groupby("seed")["value"].agg(lambda v: v.max(skipna=False))

    largest = where(linear, network="1-shortcut, zero", quantity="lambda_max")
    negative = where(linear, network="2-shortcut, zero", quantity="share_negative")
    return {
        ("H1", "condition number"): worst("condition_deviation"),
        ("H1", "spectrum"): worst("spectrum_deviation"),
        ("H1", "other losses and maps"): farthest(list(theorem.GENERALISED)),
        ("H1", "small weights"): ratio(percentile, network="2-shortcut, small"),
        ("H2", "equal Hessians"): worst("difference_from_identity_start"),
        ("H2", "growth"): largest.groupby("seed")[["layers", "value"]].apply(_straightness),
        ("H3", "flat"): worst("largest_entry"),
        ("H3", "order"): per_seed(order, quantity="order"),
        ("H4", ""): negative.groupby("seed")["value"].agg(_farthest_from_half),
        ("H5", "Xavier"): growth("plain, Xavier"),
        ("H5", "orthogonal"): growth("plain, orthogonal"),
        ("H7", "biases, spectrum"): farthest(["biases"]),
        ("H7", "biases, depth"): ratio(beside, case="biases", quantity="lambda_max"),
        ("H7", "biases, singular"): per_seed(beside, case="biases", layers=deep, quantity="share_zero"),
        ("H7", "ReLU at zero"): per_seed(beside, case=at_zero, layers=deep, quantity="largest_entry_ratio"),
        ("H7", "ReLU, small weights"): farthest([rectified]),
        ("H7", "ReLU, depth"): ratio(tens, case=rectified),
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
    """Closed forms for the first seed's data and weights."""
    seed = settings.seeds[0]
    x, y = (array.numpy() for array in cells.whitened_digits(seed))
    correlation = gs.theory.residual_correlation_matrix(x, y)
    sigma_xx, sigma_yx = x.T @ x / len(x), y.T @ x / len(x)
    even = [layers for layers in size.layers if layers % 2 == 0]
    two = {n: gs.theory.two_shortcut_spectrum(correlation, n // 2, cells.DIMENSION) for n in even}
    one = {n: np.linalg.eigvalsh(gs.theory.one_shortcut_hessian(sigma_xx, sigma_yx, n)) for n in size.layers}
    isometries = {n: cells.product(cells.linear_network("plain, orthogonal", n, seed)) for n in size.layers}
    orthogonal = {
        n: np.linalg.eigvalsh(gs.theory.orthogonal_hessian(sigma_xx, sigma_yx, product, n))
        for n, product in isometries.items()
    }
    overlays = [
        gs.theory.conditioning_overlay(orthogonal, "of the weights' product").assign(
            network="plain, orthogonal"
        ),
        gs.theory.conditioning_overlay(two, "singular values of G").assign(network="2-shortcut, zero"),
        gs.theory.conditioning_overlay(one, "block Toeplitz form").assign(network="1-shortcut, zero"),
    ]
    frame = pd.concat(overlays, ignore_index=True)
    return frame[frame["definition"] != "extreme_ratio"]


def pictures(
    linear: pd.DataFrame, trained: pd.DataFrame, heat: pd.DataFrame, size: Preset, settings: Settings
) -> tuple[Picture, ...]:
    """Condition number against depth, spectra over closed forms, the heat map, and trained networks' densities."""
    ratios = where(linear, quantity=["condition_number", "lambda_max", "share_negative"])
    ratios = ratios[ratios["definition"].isin(["percentile_10"]) | (ratios["quantity"] != "condition_number")]
    stems = where(
        linear, network="2-shortcut, zero", quantity=["eigenvalue", "closed_form"], seed=settings.seeds[0]
    )
    return (
        Picture(
            "condition",
            gs.figures.condition_against_depth(ratios, theory(size, settings)),
            "Condition number (largest over 10th percentile of the absolute eigenvalues) and largest "
            "eigenvalue against depth. Only the 2-shortcut networks are flat, on their closed form; the "
            "3-shortcut one has no curvature at zero at all, and nearly none where weights are small, so that "
            "its ratio has no meaning.",
            "Condition number and largest eigenvalue against number of layers for seven linear networks: "
            "plain ones and the 1-shortcut network grow, the 2-shortcut networks stay at their closed form.",
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
            "heat",
            gs.figures.block_curvature(heat),
            f"The Hessian of a 2-shortcut network of {HEAT_LAYERS} layers at zero, layer by layer. Norms of blocks: "
            "only the two layers of one block are coupled, and no layer has any curvature of its own.",
            "Heat map of the norms of the Hessian's blocks: empty but for pairs of neighbouring layers of one block.",
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
