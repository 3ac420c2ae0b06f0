"""Do gradients shatter with depth, and do shortcuts prevent it?

In plain networks at initialisation, the gradients of different inputs become as unrelated as white noise
with depth; in residual ones they keep in touch (Balduzzi et al. 2017, arXiv:1702.08591). Networks of 256
units are read at their input and laid over theory, published and exact; a plain and a residual network are then
trained on real images and read layer by layer.

    python -m analyses.shattering      a minute on two cores
    writes reports/shattering/: a page, verdicts, tables and figures
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import shattering as cells
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    depths: tuple[int, ...] = (1, 2, 4, 8, 20, 50)
    draws_per_seed: int = 4
    networks: int = 200
    changed: tuple[int, ...] = (2, 10, 50)
    layers: int = 32
    epochs: int = 4


PRESETS = {"quick": Preset(), "standard": Preset(draws_per_seed=8, networks=400, layers=110, epochs=15)}

SHALLOW = 10
"""Up to this depth, several networks are drawn for each seed."""
SEVERAL = ("plain", "highway, centred")
"""Networks of which several are drawn at every depth, since their claims have the margins of a mean over draws."""
WIDE = (4, 24)
CROSSED = (4, 8, 16, 24)
CHANGED, CHANGE = ("plain, centred", "residual, batch norm, beta 1"), 0.05

READING = """
R is the mean product of two inputs' gradients over their mean square (Definition 1). Near 1, a step that
helps one input helps the others; near 0, their gradients are unrelated, and no step helps all. The
published laws hold where every unit is active on half of the inputs, which mean-centring or batch
normalisation ensures. In an ordinary ReLU network activations become alike with depth, and R falls like the
third power of depth instead of exponentially.

The table of theorem values gives every published number beside the exact one. Where they part, measurement sides with
the exact one: Theorem 3 is an asymptote that exceeds 1 for small beta, and its exponents 1/2 and 1 are 0.733 and
1.467 at infinite width.

Batch statistics are frozen at those of the batch. Differentiating a sum through them mixes examples: R is then
-1/(B - 1) at every depth of a plain network and says nothing. Norms of single gradients scatter between networks by
a variance of five times depth over width, so a variance of few deep and narrow networks means little.

In the trained networks, R is read at the output of every convolution with the sum of the logits as the
source, so values near the readout are high for every network. This figure carries no verdict: the theorems
speak of initialisation.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images, options = PRESETS[settings.preset], settings.data_set(), settings.sweeping()
    draws = [
        seed * size.draws_per_seed + draw for seed in settings.seeds for draw in range(size.draws_per_seed)
    ]
    # One network scatters by 0.02, and shallow ones are cheap: several a seed.
    shallow = [depth for depth in size.depths if depth <= SHALLOW]
    deep = [depth for depth in size.depths if depth > SHALLOW]
    grid = gs.grid(family=cells.NETWORKS, depth=shallow, seed=draws)
    once = [family for family in cells.NETWORKS if family not in SEVERAL]
    grid += gs.grid(family=once, depth=deep, seed=settings.seeds)
    grid += gs.grid(family=SEVERAL, depth=deep, seed=draws)
    # A highway of one block would be a plain layer.
    grid = [c for c in grid if not (c["family"].startswith("highway") and c["depth"] == 1)]
    correlation = gs.sweep(cells.input_correlation, grid, **options)
    several = (correlation["depth"] <= SHALLOW) | correlation["family"].isin(SEVERAL)
    correlation["draw"] = correlation["seed"]
    correlation["seed"] = correlation["seed"].where(~several, correlation["seed"] // size.draws_per_seed)
    wide = drawn(gs.sweep(cells.wide_correlation, gs.grid(depth=WIDE, seed=draws), **options), size)
    explosion = gs.sweep(cells.batch_norm_variance, gs.grid(depth=shallow, seed=draws), **options)
    summed = gs.sweep(
        cells.summed_through_batch_norm, gs.grid(depth=size.depths, seed=settings.seeds), **options
    )
    condition = {"depths": [CROSSED], "networks": size.networks, "width": 128, "seed": settings.seeds}
    norms = gs.sweep(cells.log_norms, gs.grid(**condition), **options).drop(columns="depths")
    change = {"family": CHANGED, "depth": size.changed, "change": CHANGE, "seed": settings.seeds}
    changed = gs.sweep(cells.after_a_change, gs.grid(**change), **options)
    states = {"family": ["plain", "resnet"], "state": ["initial", "trained"]}
    trained = {"layers": size.layers, "epochs": size.epochs, "data": settings.data, "seed": settings.seeds}
    folders = {"root": settings.root, "folder": settings.cache / "networks"}
    layers = gs.sweep(
        cells.layer_correlation,
        gs.grid(**states, **trained),
        key={"data": images.sha256},
        constants=folders,
        **options,
    )
    tables = {
        "correlation": correlation,
        "wide_correlation": wide,
        "batch_norm_variance": drawn(explosion, size),
        "summed_through_batch_norm": summed,
        "log_norms": norms,
        "after_a_change": changed,
        "layers": layers,
        "theorems": gs.theory.theorem_table(size.depths),
    }
    return Section(
        name="shattering",
        title="Do gradients shatter?",
        question="How alike are the gradients of different inputs, and what do depth and shortcuts do to that?",
        reading=READING,
        verdicts=judged(claims(tables), settings=told(settings.preset, size)),
        pictures=pictures(correlation, changed, layers, size),
        tables=tables,
    )


def drawn(frame: pd.DataFrame, size: Preset) -> pd.DataFrame:
    """The frame with its several draws a seed told apart by `draw`."""
    return frame.assign(draw=frame["seed"], seed=frame["seed"] // size.draws_per_seed)


def told(preset: str, size: Preset) -> dict[str, str]:
    """The settings that each claim's row names."""
    usual = f"{preset}; 256 units, 128 Gaussian inputs, float32"
    return dict.fromkeys(("S1", "S2", "S3", "S4", "S5", "S7", "S10"), usual) | {
        "S2 power law, measured": f"{preset}; 1024 units, 64 Gaussian inputs, float32",
        "S2 exponent": "the recursion at infinite width: nothing is measured",
        "S10 plain batch norm": f"{preset}; 400 units, 256 Gaussian inputs, float32",
        "S13": f"{preset}; {size.networks} networks of 128 units a seed, one Gaussian input each, float32",
        "S14": f"{preset}; 64 units, 32 Gaussian inputs, batch statistics differentiated through, float64",
        "S15": f"{preset}; 256 units, {max(size.changed)} layers or blocks, 128 Gaussian inputs, float32",
    }


def claims(tables: dict[str, pd.DataFrame]) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed: the mean of its draws, where it has several."""
    correlation, changed = tables["correlation"], tables["after_a_change"]
    r, variance = (where(correlation, quantity=name) for name in ("correlation_R", "gradient_variance"))
    units = where(correlation, quantity="co_activation")
    deep, changed_deep = max(r["depth"]), max(changed["depth"])
    beta_1, beta_01 = "residual, batch norm, beta 1", "residual, batch norm, beta 0.1"
    plain_change = per_seed(changed, family="plain, centred", depth=changed_deep)
    every, ends = tables["summed_through_batch_norm"].groupby("seed")["value"], tables["wide_correlation"]
    ratio = per_seed(ends, depth=WIDE[1]) / per_seed(ends, depth=WIDE[0])
    # Scatter can leave a correlation below zero, which has no logarithm.
    decay = pd.Series({seed: math.log(r) if r > 0 else math.nan for seed, r in ratio.items()})
    normalised = where(units, family="plain, batch norm", depth=deep, layer=list(range(1, 25)))
    exploding = where(tables["batch_norm_variance"], quantity="gradient_variance")
    final = per_seed(variance, family=beta_1, depth=deep)
    return {
        ("S1", "correlation"): per_seed(r, family="plain, centred", depth=4),
        ("S1", "co-activation"): per_seed(units, family="plain, centred", depth=4),
        ("S2", "as published"): per_seed(r, family="plain", depth=4),
        ("S2", "exact theory"): per_seed(r, family="plain", depth=4),
        ("S2", "power law, measured"): decay / math.log(WIDE[1] / WIDE[0]),
        ("S2", "exponent"): pd.Series({0: exponent()}),
        ("S3", ""): per_seed(r, family="residual, centred", depth=4),
        ("S4", "as published, beta = 1"): per_seed(r, family=beta_1, depth=deep),
        ("S4", "exact law, beta = 1"): per_seed(r, family=beta_1, depth=deep),
        ("S4", "as published, beta = 0.1"): per_seed(r, family=beta_01, depth=deep),
        ("S4", "exact law, beta = 0.1"): per_seed(r, family=beta_01, depth=deep),
        ("S5", "20 blocks"): per_seed(r, family="highway, centred", depth=20),
        ("S5", "50 blocks"): per_seed(r, family="highway, centred", depth=50),
        ("S7", "batch norm"): per_seed(normalised),
        ("S7", "without"): per_seed(units, family="plain", depth=deep, layer=10),
        ("S7", "redundant"): per_seed(units, family="plain", depth=deep, layer=24),
        ("S10", "plain"): growth(where(variance, family="plain, centred")),
        ("S10", "residual"): growth(where(variance, family="residual, centred")),
        ("S10", "batch norm residual, as published"): final,
        ("S10", "batch norm residual, exact"): final,
        ("S10", "plain batch norm"): growth(exploding),
        ("S13", ""): fluctuation(tables["log_norms"]),
        ("S14", ""): every.agg(lambda values: values.abs().max(skipna=False)),
        ("S15", "plain"): plain_change,
        ("S15", "residual"): per_seed(changed, family=beta_1, depth=changed_deep) - plain_change,
    }


def exponent() -> float:
    """Slope of log R on log L of the exact recursion between 20,000 and 40,000 layers."""
    r = gs.theory.plain_correlation(40_000).gradient_correlation
    return float(np.log(r[-1] / r[19_999]) / math.log(2))


def growth(variance: pd.DataFrame) -> pd.Series:
    """Factor a layer that fits the mean over draws of the gradient variance, over shallow depths, for each seed."""
    shallow = variance[variance["depth"] <= SHALLOW]
    means = shallow.groupby(["seed", "depth"])["value"].mean().unstack()
    slopes = [np.polyfit(means.columns, np.log(row), 1)[0] for row in means.to_numpy()]
    return pd.Series(np.exp(slopes), index=means.index)


def fluctuation(norms: pd.DataFrame) -> pd.Series:
    """Width times the slope of the variance of log-norms against layers crossed, for each seed."""
    table = norms.pivot(index="seed", columns="layers", values="value")
    slopes = [np.polyfit(table.columns, row, 1)[0] for row in table.to_numpy()]
    return pd.Series(np.array(slopes) * norms["width"].iloc[0], index=table.index)


def theory(depths: tuple[int, ...]) -> pd.DataFrame:
    """The laws drawn over the measurement, at every depth."""
    every = list(range(1, max(depths) + 1))
    laws = {
        "plain, centred": ("2^-L", gs.theory.plain_centred(every)),
        "plain": ("arc-cosine recursion", gs.theory.plain_correlation(max(every)).gradient_correlation),
        "residual, centred": ("(3/4)^L", gs.theory.residual_centred(every)),
        "residual, batch norm, beta 1": ("Gamma-function law", gs.theory.residual_batch_norm(every, 1.0)),
        "residual, batch norm, beta 0.1": ("Gamma-function law", gs.theory.residual_batch_norm(every, 0.1)),
        "highway, centred": (
            "(1 - 1/(2L))^L",
            np.where(np.array(every) > 1, gs.theory.highway(every), np.nan),
        ),
    }
    frames = [
        pd.DataFrame({"family": f, "depth": every, "value": v, "law": law}) for f, (law, v) in laws.items()
    ]
    published = gs.theory.residual_batch_norm(every, 1.0, c=1.0)
    family = "residual, batch norm, beta 1"
    frames.append(
        pd.DataFrame({"family": family, "depth": every, "value": published, "law": "Theorem 3, c = 1"})
    )
    return pd.concat(frames, ignore_index=True)


def pictures(
    correlation: pd.DataFrame, changed: pd.DataFrame, layers: pd.DataFrame, size: Preset
) -> tuple[Picture, ...]:
    """R against depth first, then co-activation, a change of weights, and the trained networks."""
    correlation = correlation.drop(columns="seed").rename(columns={"draw": "seed"})
    # The plain network with batch norm lies on the centred one.
    measured = correlation[correlation["family"] != "plain, batch norm"]
    deepest = where(correlation, quantity="co_activation", depth=max(correlation["depth"]))
    units = deepest.drop(columns=["depth", "low", "high"], errors="ignore").rename(columns={"layer": "depth"})
    units = units.astype({"depth": int})
    rho = gs.theory.plain_correlation(max(units["depth"])).input_correlation
    exact = pd.DataFrame({"family": "plain", "depth": sorted(set(units["depth"]))})
    exact = exact.assign(
        value=gs.theory.coactivation(rho[exact["depth"] - 1]), law="(pi - acos rho) / (2 pi)"
    )
    by_layer = layers.assign(family=layers["family"] + ", " + layers["state"])
    return (
        Picture(
            "correlation",
            gs.figures.correlation_against_depth(
                where(measured, quantity="correlation_R"), theory(size.depths), floor=1e-4
            ),
            "R at the input against depth, with theory as thin curves: the centred plain network loses "
            "half with every layer, the residual one a quarter; batch normalisation with a small beta "
            "keeps most of it through 50 blocks, and a rescaled highway does not decay. Below about 0.02, what is "
            "measured in networks of 256 units is scatter.",
            "Gradient correlation against depth on logarithmic axes for six networks, with curves of theory.",
        ),
        Picture(
            "co_activation",
            gs.figures.correlation_against_depth(
                units,
                exact,
                y_scale="linear",
                x_label="layer (number)",
                y_label="co-active fraction (dimensionless)",
            ),
            "Share of units that are active on both of two inputs, layer by layer of the deepest plain networks. With "
            "batch normalisation it stays at a quarter, as the theorems assume; with centring alone through some "
            "twenty layers, until one input outgrows the others. Without either it climbs to a half.",
            "Co-active fraction against layer for three plain networks, and a curve of theory for one.",
        ),
        Picture(
            "after_a_change",
            gs.figures.correlation_against_depth(
                changed, y_scale="linear", y_label="cosine before and after (dimensionless)"
            ),
            "Cosine between the gradients at the first layer's output before and after its weights change by "
            f"{100 * CHANGE:.0f} %. In a residual network the output changes by less, since the stream passes by.",
            "Cosine against depth for a plain and a residual network.",
        ),
        Picture(
            "layers",
            gs.figures.correlation_against_depth(
                by_layer, x_scale="linear", y_scale="linear", x_label="convolution (order of running)"
            ),
            f"R at the output of every convolution of networks of {size.layers} layers on real images, "
            "before and after training. Shallow layers are on the left: what is lost there has been lost "
            "on the way back.",
            "Gradient correlation by layer for a plain and a residual convolutional network, initial and "
            "trained.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
