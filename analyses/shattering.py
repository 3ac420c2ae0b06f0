"""Do gradients shatter with depth, and do shortcuts prevent it?

In plain networks at initialisation, the gradients of different inputs become as unrelated as white noise
with depth; in residual ones they keep in touch (Balduzzi et al. 2017, arXiv:1702.08591). Networks of 256
units are read at their input and laid over theory; a plain and a residual network are then trained on real
images and read layer by layer.

    python -m analyses.shattering      half a minute on two cores
    writes reports/shattering/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import shattering as cells
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    depths: tuple[int, ...] = (1, 2, 4, 10, 24, 50)
    trace_layers: tuple[int, ...] = (2, 10, 24, 50)
    draws_per_seed: int = 4
    layers: int = 32
    epochs: int = 4


PRESETS = {"quick": Preset(), "standard": Preset(draws_per_seed=8, layers=110, epochs=15)}

SHALLOW = 10
"""Up to this depth, several networks are drawn for each seed."""

READING = """
R is the mean product of two inputs' gradients over their mean square (Definition 1). Near 1, a step that
helps one input helps the others; near 0, their gradients are unrelated, and no step helps all. The
published laws hold where every unit is active on half of the inputs, which mean-centring or batch
normalisation ensures. In an ordinary ReLU network activations become alike with depth, and R falls like the
third power of depth instead of exponentially.

The 1-D traces show the same for networks of one number. What counts as white is white at this spacing of
inputs (4/255). Autocorrelations are means over draws, with frozen batch statistics.

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
    traced = gs.grid(family=cells.TRACED, layers=size.trace_layers, seed=draws)
    # One network scatters by 0.02, and shallow ones are cheap: several a seed.
    grid = gs.grid(
        family=cells.NETWORKS, depth=[depth for depth in size.depths if depth <= SHALLOW], seed=draws
    )
    grid += gs.grid(
        family=cells.NETWORKS, depth=[depth for depth in size.depths if depth > SHALLOW], seed=settings.seeds
    )
    correlation = gs.sweep(cells.input_correlation, grid, **options)
    traces = gs.sweep(cells.trace, traced + gs.grid(family=cells.NOISES, layers=0, seed=draws), **options)
    # A noise has no layers.
    traces["layers"] = traces["layers"].mask(traces["family"].isin(cells.NOISES))
    linear = gs.sweep(cells.looks_linear, gs.grid(depth=max(size.depths), seed=settings.seeds), **options)
    states = {"family": ["plain", "resnet"], "state": ["initial", "trained"]}
    trained = {"layers": size.layers, "epochs": size.epochs, "data": settings.data, "seed": settings.seeds}
    folders = {"root": settings.root, "folder": settings.cache / "networks"}
    key = {"data": images.sha256}
    layers = gs.sweep(
        cells.layer_correlation, gs.grid(**states, **trained), key=key, constants=folders, **options
    )
    told = dict.fromkeys(
        ("S1", "S2", "S3", "S4"), f"{settings.preset}; 256 units, 128 Gaussian inputs, float32"
    )
    told |= {"S6": f"{settings.preset}; 200 units, 256 points on [-2, 2], float64"}
    told |= {"S11": f"{settings.preset}; 64 CReLU units, {max(size.depths)} layers, float64"}
    return Section(
        name="shattering",
        title="Do gradients shatter?",
        question="How alike are the gradients of different inputs, and what do depth and shortcuts do to that?",
        reading=READING,
        verdicts=judged(claims(correlation, traces, linear, size.draws_per_seed), settings=told),
        pictures=pictures(correlation, traces, layers, size),
        tables={
            **{"correlation": correlation, "looks_linear": linear, "layers": layers},
            "trace_statistics": traces[traces["quantity"] != "input_gradient"].drop(columns="x"),
            "traces": where(traces, quantity="input_gradient", seed=draws[0]).dropna(
                axis="columns", how="all"
            ),
        },
    )


def claims(
    correlation: pd.DataFrame, traces: pd.DataFrame, linear: pd.DataFrame, draws_per_seed: int
) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed: the mean of its draws, where it has several."""
    several = correlation["depth"] <= SHALLOW
    correlation = correlation.assign(
        seed=correlation["seed"].where(~several, correlation["seed"] // draws_per_seed)
    )
    traces = traces.assign(seed=traces["seed"] // draws_per_seed)
    r = where(correlation, quantity="correlation_R")
    acf = where(traces, quantity="autocorrelation")
    deep = max(r["depth"])
    return {
        ("S1", "correlation"): per_seed(r, family="plain, centred", depth=4),
        ("S1", "co-activation"): per_seed(
            correlation, family="plain, centred", depth=4, quantity="co_activation"
        ),
        ("S2", "as published"): per_seed(r, family="plain", depth=4),
        ("S2", "exact theory"): per_seed(r, family="plain", depth=4),
        ("S3", ""): per_seed(r, family="residual, centred", depth=4),
        ("S4", "as published, beta = 1"): per_seed(r, family="residual, batch norm, beta 1", depth=deep),
        ("S4", "exact law, beta = 1"): per_seed(r, family="residual, batch norm, beta 1", depth=deep),
        ("S4", "as published, beta = 0.1"): per_seed(r, family="residual, batch norm, beta 0.1", depth=deep),
        ("S4", "exact law, beta = 0.1"): per_seed(r, family="residual, batch norm, beta 0.1", depth=deep),
        ("S6", "shallow is brown"): per_seed(acf, family="plain, centred", layers=2, lag=5),
        ("S6", "plain 24 layers is white"): per_seed(acf, family="plain, centred", layers=24, lag=1),
        ("S6", "plain 24 layers, spectral slope"): per_seed(
            traces, quantity="spectral_slope", family="plain, centred", layers=24
        ),
        ("S6", "residual 50 blocks, beta = 0.1"): per_seed(
            acf, family="residual, beta 0.1", layers=50, lag=5
        ),
        ("S11", "correlation"): per_seed(linear, quantity="correlation_R"),
        ("S11", "linear map"): per_seed(linear, quantity="deviation_from_linear_map"),
    }


def theory(depths: tuple[int, ...]) -> pd.DataFrame:
    """The laws drawn over the measurement, at every depth."""
    every = list(range(1, max(depths) + 1))
    laws = {
        "plain, centred": ("2^-L", gs.theory.plain_centred(every)),
        "plain": ("arc-cosine recursion", gs.theory.plain_correlation(max(every)).gradient_correlation),
        "residual, centred": ("(3/4)^L", gs.theory.residual_centred(every)),
        "residual, batch norm, beta 1": ("Gamma-function law", gs.theory.residual_batch_norm(every, 1.0)),
        "residual, batch norm, beta 0.1": ("Gamma-function law", gs.theory.residual_batch_norm(every, 0.1)),
    }
    frames = [
        pd.DataFrame({"family": f, "depth": every, "value": v, "law": law}) for f, (law, v) in laws.items()
    ]
    return pd.concat(frames, ignore_index=True)


def expected_autocorrelation(trace_layers: tuple[int, ...]) -> pd.DataFrame:
    """Autocorrelation of the centred plain network by the derivative Gaussian process."""
    points = gs.data.line(cells.POINTS).flatten().double().numpy()
    lags = list(range(cells.LAGS + 1))
    frames = []
    for layers in trace_layers:
        derivative = gs.theory.plain_derivative_process(points, layers).derivative
        values = gs.theory.expected_autocorrelation(derivative, lags)
        frames.append(
            pd.DataFrame({"family": "plain, centred", "layers": layers, "lag": lags, "value": values})
        )
    return pd.concat(frames, ignore_index=True).assign(law="derivative Gaussian process")


def pictures(
    correlation: pd.DataFrame, traces: pd.DataFrame, layers: pd.DataFrame, size: Preset
) -> tuple[Picture, ...]:
    """R against depth first, then traces, their autocorrelation, and the trained networks."""
    acf = where(traces, quantity="autocorrelation")[["family", "layers", "seed", "lag", "value"]].assign(
        band_low=-1.96 / 16, band_high=1.96 / 16
    )
    measured = where(correlation, quantity="correlation_R")
    by_layer = layers.assign(family=layers["family"] + ", " + layers["state"])
    first = where(traces, quantity="input_gradient", seed=traces["seed"].min())
    shown = [("plain, centred", 2), ("plain, centred", 24), ("residual, beta 0.1", 50)]
    gradients = [where(first, family=family, layers=layers) for family, layers in shown]
    gradients += [where(first, family=noise) for noise in cells.NOISES]
    return (
        Picture(
            "correlation",
            gs.figures.correlation_against_depth(measured, theory(size.depths), floor=1e-4),
            "R at the input against depth, with theory as thin curves: the centred plain network loses "
            "half with every layer, the residual one a quarter; batch normalisation with a small beta "
            "keeps most of it through 50 blocks. Below about 0.02, what is measured in networks of 256 units "
            "is scatter.",
            "Gradient correlation against depth on logarithmic axes for five networks. Points lie on "
            "their theory curves.",
        ),
        Picture(
            "traces",
            gs.figures.traces(pd.concat(gradients)),
            "The gradient of the output along a line of inputs, one draw each. The shallow network resembles brown "
            "noise, the plain one of 24 layers white noise, and the residual one of 50 blocks brown noise "
            "again.",
            "Five traces of gradient against input: 2 layers wander, 24 plain layers jump at every point, "
            "50 residual wander.",
        ),
        Picture(
            "autocorrelation",
            gs.figures.autocorrelation(acf, expected_autocorrelation(size.trace_layers)),
            "Autocorrelation of those traces, mean over draws. A lag is 4/255 of input. A single trace "
            "of white noise stays in the grey band.",
            "Autocorrelation against lag by network and depth: it is gone at once in deep plain networks, within "
            "ten lags in a residual one of 50 blocks with beta 1, and falls slowly with beta 0.1.",
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
