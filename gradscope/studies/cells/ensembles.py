"""Cells of the lesion analysis: one trained network on real images in, one frame out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.studies.layer_lesion_study import layer_lesion_study
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained

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
