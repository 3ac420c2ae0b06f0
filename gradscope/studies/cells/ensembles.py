"""Cells of the lesion and path analyses: one trained (or fresh) network on real images in, one frame out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.instruments.junctions import junctions
from gradscope.studies.layer_lesion_study import layer_lesion_study
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.path_spectrum import path_spectrum
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained, untrained
from gradscope.theory.path_counts import path_counts

if TYPE_CHECKING:
    import pandas as pd


def lesions(
    family: str,
    layers: int,
    epochs: int,
    data: str,
    seed: int,
    *,
    sets: Sequence[int],
    subsets: int,
    calibration: int,
    images: int,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """Test error of one trained network after closing each block and random sets of blocks (or layers).

    The first `images` test images are judged; batch-norm statistics are calibrated on the first
    `calibration` training images.
    """
    data_of = data_set(data, root)
    model = trained(family, layers, seed, data_of, epochs=epochs, folder=folder)
    test = data_of.test[0][:images], data_of.test[1][:images]
    inputs = data_of.train[0][:calibration]
    if family == "resnet":
        return lesion_study(
            (model, test),
            sets=sets,
            subsets=subsets,
            recalibrate=True,
            groups=None,
            calibration=inputs,
            seed=seed,
            show=False,
        )
    return layer_lesion_study((model, test), calibration=inputs, show=False)


def path_lengths(
    state: str,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    draws: int,
    seed: int,
    *,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """The path spectrum of one residual network, `initial` or `trained`, on the first test images."""
    data_of = data_set(data, root)
    if state == "initial":
        model = untrained("resnet", layers, seed, data_of)
    else:
        model = trained("resnet", layers, seed, data_of, epochs=epochs, folder=folder)
    test = data_of.test[0][:images], data_of.test[1][:images]
    return path_spectrum((model, test), draws=draws, seed=seed)


def paths_through(layers: int, data: str, *, root: str | None) -> list[int]:
    """Number of paths by length through ResNet of `layers` layers, from the junctions found in it."""
    data_of = data_set(data, root)
    found = junctions(untrained("resnet", layers, 0, data_of), data_of.test[0][:2])
    return path_counts([[1, len(junction.branches)] for junction in found])
