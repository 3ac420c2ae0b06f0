"""Can deep networks without skips be trained if they look linear at first?

Their gradients do not shatter, for a looks-linear network is a linear map at initialisation. Such networks train at
depths where plain ReLU networks fail (Balduzzi et al. 2017, arXiv:1702.08591, section 5).

    python -m analyses.looks_linear      two minutes on two cores
    writes reports/looks_linear/: a page, verdicts, tables and figures
"""

from dataclasses import dataclass

import pandas as pd

import gradscope as gs
from gradscope.cli.analysis import run
from gradscope.report import Picture, Section, judged
from gradscope.studies.cells import linear_maps, looks_linear
from gradscope.studies.frames import per_seed, where
from gradscope.studies.settings import Settings


@dataclass(frozen=True)
class Preset:
    depth: int = 50
    layers: tuple[int, ...] = (8, 20, 44)
    epochs: int = 3


PRESETS = {"quick": Preset(), "standard": Preset(layers=(8, 20, 44, 98), epochs=15)}

READING = """
CReLU keeps both halves, relu(x) and relu(-x). With the weight [W, -W] behind it a layer computes W x: the network is
linear at initialisation, all inputs have the same gradient (R = 1), and with orthogonal W it is an isometry. The two
halves are free from the first step on.

Networks are convolutions of stride 1 with a constant number of channels, without skips and without normalisation,
trained on the images with the same settings for all; the residual network is the usual one with batch normalisation.
One small data set and few epochs say whether a network starts to learn at all, not how good it gets.

Learning rates are searched: for every family and depth the one of five with the lowest training loss over two pilot
seeds (100 and 101) that no claim uses by default. The readout sees 4 x 4 places of the image. With a global average
it would see each channel's mean only, and since a looks-linear network begins as one linear map of every pixel for
itself, the digits then look alike to it at first: those rows stand beside the others, and trained worse in the pilot.
"""


def main(settings: Settings) -> Section:
    """Measure, judge and draw."""
    size, images, options = PRESETS[settings.preset], settings.data_set(), settings.sweeping()
    linear = gs.sweep(linear_maps.looks_linear, gs.grid(depth=size.depth, seed=settings.seeds), **options)
    trained = {"depth": size.layers, "epochs": size.epochs, "data": settings.data, "seed": settings.seeds}
    training = gs.sweep(
        looks_linear.training,
        gs.grid(family=looks_linear.FAMILIES, **trained),
        key={"data": images.sha256},
        constants={"root": settings.root, "folder": settings.cache / "networks"},
        **options,
    )
    training = pd.concat([training, averaged(settings, size)], ignore_index=True)
    depths = f"{min(size.layers)} and {max(size.layers)} layers"
    told = {"S11": f"{settings.preset}; {linear_maps.WIDTH} CReLU units, {size.depth} layers, float64"}
    told |= {"S12": f"{settings.preset}; {settings.data}, {depths}, {size.epochs} epochs"}
    return Section(
        name="looks_linear",
        title="Can deep networks without skips be trained if they look linear at first?",
        question="Does an initialisation without shattered gradients replace skips?",
        reading=READING,
        verdicts=judged(claims(linear, training, size), settings=told),
        pictures=pictures(training),
        tables={"at_initialisation": linear, "training": training},
    )


def averaged(settings: Settings, size: Preset) -> pd.DataFrame:
    """Looks-linear networks whose readout sees each channel's mean only: no claim, but a condition of the others."""
    condition = {"depth": size.layers, "epochs": size.epochs, "data": settings.data, "seed": settings.seeds}
    frame = gs.sweep(
        looks_linear.training,
        gs.grid(family="looks-linear CReLU", **condition, pooled=1),
        key={"data": settings.data_set().sha256},
        constants={"root": settings.root, "folder": settings.cache / "networks"},
        **settings.sweeping(),
    )
    return frame.assign(family="looks-linear CReLU, global average").drop(columns="pooled")


def claims(linear: pd.DataFrame, training: pd.DataFrame, size: Preset) -> dict[tuple[str, str], pd.Series]:
    """The statistic of each claim, one value a seed."""
    error = where(training, quantity="train_error")
    deep, shallow = (where(error, depth=depth) for depth in (max(size.layers), min(size.layers)))
    start = per_seed(deep, family="looks-linear CReLU")
    return {
        ("S11", "correlation"): per_seed(linear, quantity="correlation_R"),
        ("S11", "linear map"): per_seed(linear, quantity="deviation_from_linear_map"),
        ("S11", "orthogonal Jacobian"): per_seed(linear, quantity="deviation_from_isometry"),
        ("S12", "ReLU fails"): per_seed(deep, family="ReLU") - start,
        ("S12", "looks-linear trains"): start,
        ("S12", "CReLU alone fails"): per_seed(deep, family="CReLU") - start,
        ("S12", "shallow"): per_seed(shallow, family="ReLU") - per_seed(shallow, family="looks-linear CReLU"),
    }


def pictures(training: pd.DataFrame) -> tuple[Picture, ...]:
    """Training error against depth."""
    error = where(training, quantity="train_error")[["family", "depth", "seed", "value"]]
    return (
        Picture(
            "training",
            gs.figures.correlation_against_depth(
                error, y_scale="linear", x_label="depth (convolutions)", y_label="training error (share)"
            ),
            "Training error against depth after the same few epochs. Chance is 0.9.",
            "Training error against depth for six kinds of networks: looks-linear, CReLU, ReLU, linear, residual, and "
            "looks-linear with a readout of means.",
        ),
    )


if __name__ == "__main__":
    run(main, PRESETS)
