"""Does the gradient along a line of inputs look like brown noise or like white noise?

For networks of a scalar, that of a shallow network wanders like brown noise, that of a plain one of 24 layers jumps
like white noise, and a residual one of 50 blocks with beta = 0.1 is nearly brown again (Balduzzi et al. 2017,
arXiv:1702.08591, figures 1, 2 and 4). A recipe without centring does not show it, which is why some could not
reproduce it.

    python -m analyses.traces      half a minute on two cores
    writes reports/traces/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import traces as cells
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: tuple[int, ...] = (2, 10, 24, 50)
    draws_per_seed: int = 8
    patterns: tuple[int, ...] = (2, 10, 50)
    recipes: int = 50


PRESETS = {"quick": Preset(), "standard": Preset(draws_per_seed=20)}

READING = """
What counts as white is white at this spacing of inputs (4/255); a finer grid would resolve any of these traces.
Autocorrelations are means over draws of the standard estimator, with frozen batch statistics. White noise has an
autocorrelation of -1/256 with a standard deviation of 1/16; brown noise loses 14 % of it in five steps.

A unit of a deep plain network with batch normalisation switches at every second input, as a coin does; in a residual
network it stays on or off for dozens of inputs. Without batch normalisation most units never switch: they say the
same about every input, so that the gradient hardly changes, and does not shatter either.

That is why a well-known notebook could not reproduce the paper: it draws weights and biases of variance 1/N and does
not centre. Its gradients stay correlated through 50 layers, and vanish, since that variance is half of He's. With He's
weights they no longer vanish and are still not white; mean-centring (or batch normalisation) is what whitens. Without
biases and without centring, a network of a scalar is linear on either side of zero, and its gradient takes two
values only. "White" is a matter of degree: a test over many lags still finds traces of correlation in some networks.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, options = PRESETS[settings.preset], settings.sweeping()
    draws = [
        seed * size.draws_per_seed + draw for seed in settings.seeds for draw in range(size.draws_per_seed)
    ]
    grid = gs.grid(family=cells.TRACED, layers=size.layers, seed=draws)
    traces = gs.sweep(cells.trace, grid + gs.grid(family=cells.NOISES, layers=0, seed=draws), **options)
    # A noise has no layers.
    traces["layers"] = traces["layers"].mask(traces["family"].isin(cells.NOISES))
    patterns = gs.sweep(
        cells.pattern, gs.grid(family=cells.PATTERNS, layers=size.patterns, seed=settings.seeds), **options
    )
    recipes = gs.sweep(
        cells.recipe, gs.grid(name=cells.RECIPES, layers=size.recipes, seed=settings.seeds), **options
    )
    one = settings.seeds[:1]
    rasters = gs.sweep(
        cells.raster, gs.grid(family=cells.PATTERNS, layers=max(size.patterns), seed=one), **options
    )
    told = {
        "S6": f"{settings.preset}; 200 units, 256 points on [-2, 2], {size.draws_per_seed} draws a seed, float64"
    }
    told |= {
        "S8": f"{settings.preset}; 200 units, 256 points on [-2, 2], {max(size.patterns)} layers or blocks"
    }
    statistics = traces[traces["quantity"] != "input_gradient"].drop(columns="x")
    return Section(
        name="traces",
        title="Does the gradient along a line of inputs become noise?",
        question="How fast does the gradient change from one input to the next, and what keeps it from jumping?",
        reading=READING,
        verdicts=judged(claims(traces, patterns, size), settings=told),
        pictures=pictures(traces, recipes, rasters, patterns, size),
        tables={
            "trace_statistics": statistics,
            "traces": where(traces, quantity="input_gradient", seed=draws[0]).dropna(
                axis="columns", how="all"
            ),
            "patterns": where(
                patterns, quantity=[q for q in patterns["quantity"].unique() if q != "runs"]
            ).drop(columns="length"),
            "run_lengths": where(patterns, quantity="runs"),
            "rasters": rasters,
            "recipes": recipes[recipes["quantity"] != "input_gradient"].drop(columns="x"),
        },
    )


def claims(traces: pd.DataFrame, patterns: pd.DataFrame, size: Preset) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed: the mean of its draws."""
    traces = traces.assign(seed=traces["seed"] // size.draws_per_seed)
    acf, slope, rejected = (
        where(traces, quantity=name)
        for name in ("autocorrelation", "spectral_slope", "ljung_box_rejects_whiteness")
    )
    shallow, deep = ({"family": "plain, centred", "layers": layers} for layers in (2, 24))
    residual = {"family": "residual, beta 0.1", "layers": 50}
    last = where(patterns, layers=max(size.patterns))
    return {
        ("S6", "shallow is brown"): per_seed(acf, **shallow, lag=5),
        ("S6", "shallow is no white noise, Ljung-Box"): per_seed(rejected, **shallow),
        ("S6", "plain 24 layers is white"): per_seed(acf, **deep, lag=1),
        ("S6", "plain 24 layers, spectral slope"): per_seed(slope, **deep),
        ("S6", "plain 24 layers, Ljung-Box"): per_seed(rejected, **deep),
        ("S6", "residual 50 blocks, beta = 0.1"): per_seed(acf, **residual, lag=5),
        ("S6", "residual 50 blocks, spectral slope"): per_seed(slope, **residual),
        ("S8", "plain, batch norm"): per_seed(last, family="plain, batch norm", quantity="mean_run_length"),
        ("S8", "residual, batch norm"): per_seed(
            last, family="residual, batch norm, beta 1", quantity="mean_run_length"
        ),
        ("S8", "no batch norm"): per_seed(last, family="plain, biases", quantity="constant_share"),
    }


def expected_autocorrelation(layers: tuple[int, ...]) -> pd.DataFrame:
    """Autocorrelation of the centred plain network by the derivative Gaussian process."""
    points = gs.data.line(cells.POINTS).flatten().double().numpy()
    lags = list(range(cells.LAGS + 1))
    frames = []
    for depth in layers:
        derivative = gs.theory.plain_derivative_process(points, depth).derivative
        values = gs.theory.expected_autocorrelation(derivative, lags)
        frames.append(
            pd.DataFrame({"family": "plain, centred", "layers": depth, "lag": lags, "value": values})
        )
    return pd.concat(frames, ignore_index=True).assign(law="derivative Gaussian process")


def pictures(
    traces: pd.DataFrame, recipes: pd.DataFrame, rasters: pd.DataFrame, patterns: pd.DataFrame, size: Preset
) -> tuple[Picture, ...]:
    """Traces and their covariance pictures, autocorrelations, rasters, run lengths, and the recipes."""
    acf = where(traces, quantity="autocorrelation")[["family", "layers", "seed", "lag", "value"]]
    acf = acf.assign(band_low=-1.96 / 16, band_high=1.96 / 16)
    of_recipes = where(recipes, quantity="autocorrelation")[["name", "layers", "seed", "lag", "value"]]
    of_recipes = of_recipes.rename(columns={"name": "family"})
    first = where(traces, quantity="input_gradient", seed=traces["seed"].min())
    shown = [("plain, centred", 2), ("plain, centred", 24), ("residual, beta 0.1", 50)]
    gradients = [where(first, family=family, layers=layers) for family, layers in shown]
    gradients += [where(first, family=noise) for noise in cells.NOISES]
    return (
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
            "covariance",
            gs.figures.covariance_picture(pd.concat(gradients)),
            "The same draws as the paper draws them beneath: the products of every two centred gradients over the "
            "variance, without sign. A single draw has rank one; it is no covariance over draws.",
            "Five square pictures: broad bands for the shallow and the residual network and for brown noise, a fine "
            "weave for 24 plain layers and for white noise.",
        ),
        Picture(
            "autocorrelation",
            gs.figures.autocorrelation(acf, expected_autocorrelation(size.layers)),
            "Autocorrelation of those traces, mean over draws. A lag is 4/255 of input. A single trace "
            "of white noise stays in the grey band.",
            "Autocorrelation against lag by network and depth, plain, residual with beta 1 and residual with beta 0.1, "
            "beside brown and white noise.",
        ),
        Picture(
            "rasters",
            gs.figures.raster(rasters),
            f"Which units of the last rectifier are active on which input, {max(size.patterns)} layers or blocks, one "
            "draw: with batch normalisation a plain network's units toss coins, without it they are always on or off; "
            "those of a residual network hold.",
            "Three rasters of units against inputs: full stripes, fine dust, and long runs.",
        ),
        Picture(
            "run_lengths",
            gs.figures.run_lengths(where(patterns, quantity="runs")),
            "How many runs of constant activity have which length. In the plain network with batch normalisation they "
            "get as short as a coin's with depth, in the residual one they stay long.",
            "Shares of run lengths for three kinds of networks at several depths.",
        ),
        Picture(
            "recipes",
            gs.figures.autocorrelation(of_recipes),
            f"Autocorrelation in plain networks of {size.recipes} layers by how they are initialised: variances of "
            "weights (He's is 2/N) and of biases. Centring whitens, the others do not; the first recipe is that of the "
            "notebook that could not reproduce the paper.",
            "Autocorrelation against lag for four recipes, three without centring and one with.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
