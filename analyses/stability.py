"""Which learning rates does gradient descent bear, and what does it do to the curvature?

Of deep linear networks, those with shortcuts over two layers from small weights are said to bear the widest range of
rates and to end lowest (Li et al. 2016, arXiv:1611.01186). Full-batch gradient descent is said to sharpen a network
until learning rate times top eigenvalue is 2 (Cohen et al. 2021, arXiv:2103.00065).

    python -m analyses.stability      two minutes on two cores
    writes reports/stability/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import edge_of_stability as edge
from gradscope.studies.cells import linear_training as linear
from gradscope.studies.cells.conditioning import SMALL
from gradscope.studies.frames import where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    layers: int = 12
    steps: int = 400
    followed_layers: int = 6
    followed: tuple[int, ...] = (0, 5, 10, 20, 40, 80, 160, 400)
    rates: tuple[float, ...] = (0.25, 0.5, 1.0)
    edge_steps: int = 1500
    every: int = 50


PRESETS = {"quick": Preset(), "standard": Preset(steps=1000, followed=(0, 5, 10, 20, 40, 80, 160, 400, 1000))}

FOLLOWED_RATE = {
    "plain, Xavier": 2.0**-5,
    "plain, orthogonal": 2.0**-2,
    "1-shortcut, zero": 2.0**-2,
    "2-shortcut, small": 1.0,
    "3-shortcut, small": 2.0**-2,
}
"""Rates with which the Hessian is followed: good ones of the grid at 6 layers on two pilot seeds, 1000 and 1001."""

REACHED = 0.1
"""Excess, as a share of that of predicting zero, below which a rate counts as borne."""

TWO = "2-shortcut, small"

READING = """
The first picture asks how far gradient descent comes in a fixed number of steps with each rate of a grid. The excess
is the loss above that of least squares, which no linear network can beat, over the same for predicting zero: 1 is
where predicting nothing would leave it. Curves that end at the upper edge diverged. The paper's own grid of rates,
number of steps and scale of small weights could not be confirmed; these are stated, not its. Where a curve is lowest
at the right edge of the grid, its network might have done better still with larger rates.

The second follows the dense Hessian of the same kinds of networks along training. Near the minimum every
over-parametrised linear network is singular, so condition numbers of all grow without bound in the end: compare them
at equal loss, not at equal step.

The third follows a small tanh network under full-batch gradient descent, square loss. A quadratic with a larger
curvature than 2 over the rate would be left at once; a network is not, it hovers there.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, options = PRESETS[settings.preset], settings.sweeping()
    rates = gs.sweep(
        linear.learning_rate_grid,
        gs.grid(network=linear.NETWORKS, layers=size.layers, steps=size.steps, seed=settings.seeds),
        **options,
    )
    cells = [
        {
            "network": network,
            "layers": size.followed_layers,
            "learning_rate": rate,
            "steps": size.followed,
            "seed": seed,
        }
        for network, rate in FOLLOWED_RATE.items()
        for seed in settings.seeds[:3]
    ]
    followed = gs.sweep(linear.along_training, cells, **options).drop(columns="steps")
    sharpened = gs.sweep(
        edge.trajectory,
        gs.grid(learning_rate=size.rates, steps=size.edge_steps, every=size.every, seed=settings.seeds),
        **options,
    )
    told = {
        "H6": f"{settings.preset}; {size.layers} layers, 600 digits, 10 whitened components, {size.steps} steps, "
        f"{len(linear.RATES)} rates, small weights of {SMALL}, float64",
        "H9": f"{settings.preset}; tanh MLP of two hidden layers of {edge.WIDTH}, {edge.EXAMPLES} digits, "
        f"{size.edge_steps} full-batch steps, float32",
    }
    return Section(
        name="stability",
        title="Which learning rates does gradient descent bear?",
        question="How do the length of shortcuts and the learning rate decide how far gradient descent comes?",
        reading=READING,
        verdicts=judged(claims(rates, sharpened, size), settings=told),
        pictures=pictures(rates, followed, sharpened),
        tables={"learning_rates": rates, "along_training": followed, "edge_of_stability": sharpened},
    )


def claims(rates: pd.DataFrame, sharpened: pd.DataFrame, size: Preset) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    excess = where(rates, quantity="excess_loss")
    # A rate at which training diverged is no candidate for the best, and does not count as borne.
    best = excess.groupby(["seed", "network"])["value"].min().map(np.log10).unstack()
    borne = (excess["value"] < REACHED).groupby([excess["seed"], excess["network"]]).sum().unstack()
    late = where(sharpened, quantity="learning_rate_product")
    late = late[late["step"] > 0.75 * size.edge_steps]
    settled = late.groupby(["seed", "learning_rate"])["value"].agg(lambda v: v.mean(skipna=False)).unstack()
    return {
        ("H6", "lower loss"): best[TWO] - best.drop(columns=TWO).min(axis=1),
        ("H6", "range of rates"): (borne[TWO] - borne.drop(columns=TWO).max(axis=1)).astype(float),
        ("H9", "from below"): settled[min(size.rates)],
        ("H9", "from above"): settled[max(size.rates)],
    }


def pictures(rates: pd.DataFrame, followed: pd.DataFrame, sharpened: pd.DataFrame) -> tuple[Picture, ...]:
    """Excess against rate, the Hessian along training, and the way to the edge of stability."""
    named = sharpened.assign(network=[f"learning rate {rate:g}" for rate in sharpened["learning_rate"]])
    return (
        Picture(
            "learning_rates",
            gs.figures.learning_rate_grid(rates, quantity="excess_loss"),
            "Excess loss after a fixed number of steps against the learning rate: median over seeds, their range.",
            "Excess loss against learning rate for five kinds of deep linear networks; the 2-shortcut network bears "
            "the largest rates.",
        ),
        Picture(
            "along_training",
            gs.figures.curvature_along_training(followed),
            "The Hessian of deep linear networks along training, each at a good rate of its own: extreme eigenvalues, "
            "their ratio, the condition number against the 10th percentile, and the share of negative eigenvalues.",
            "Largest and smallest eigenvalue, two condition numbers and the share of negative eigenvalues against the "
            "step for five kinds of deep linear networks.",
        ),
        Picture(
            "edge_of_stability",
            gs.figures.curvature_along_training(
                named, quantities=["loss", "lambda_max", "learning_rate_product"]
            ),
            "Full-batch gradient descent with three rates: the top eigenvalue rises or falls until its product with "
            "the rate is just above 2.",
            "Loss, top eigenvalue, and learning rate times top eigenvalue against the step for three learning rates; "
            "the products meet at 2.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
