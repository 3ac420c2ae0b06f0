"""Cells on training with fewer or more paths: one network trained in one way, its errors out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gradscope.data import DataSet
from gradscope.instruments.gates.scaling import scale_branches
from gradscope.instruments.junctions import junctions
from gradscope.instruments.recalibrate import recalibrated
from gradscope.studies.lesion_study import lesion_study
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained
from gradscope.training.evaluation import error
from gradscope.training.exact_blocks import exact_blocks
from gradscope.training.path_options import PathOption
from gradscope.training.random_depth import random_depth

if TYPE_CHECKING:
    import pandas as pd

EFFECTIVE = 23 / 54
ALL, SOME, DROPPED = "all blocks", "23/54 of the blocks", "stochastic depth"


def errors(
    training: str,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    calibration: int,
    seed: int,
    *,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """Test error of a ResNet, whole and after closing each block, trained in one of three ways.

    Args:
        training: `all blocks`; `23/54 of the blocks`, drawn anew for each batch (Veit et al. 2016, section 5), judged
            also with every branch `scaled` by 23/54; or `stochastic depth`, with the linear rule down to one half.
        images: Test images judged.
        calibration: Training images on which batch-norm statistics are estimated anew, for the rows that say so.
    """
    import pandas as pd

    data_of = data_set(data, root)
    blocks = (layers - 2) // 2
    options: dict[str, PathOption | None] = {
        ALL: None,
        SOME: exact_blocks(round(EFFECTIVE * blocks), seed=seed),
        DROPPED: random_depth(0.5, seed=seed),
    }
    model = trained("resnet", layers, seed, data_of, epochs=epochs, folder=folder, paths=options[training])
    whole = _errors(model, data_of, images, calibration)
    test = data_of.test[0][:images], data_of.test[1][:images]
    if training == SOME:
        with scale_branches(model, list(junctions(model, test[0][:2])), EFFECTIVE):
            scaled = _whole("scaled", error(model, test), len(test[0]))
        return pd.concat([whole, pd.DataFrame([scaled])], ignore_index=True)
    single = lesion_study((model, test), sets=[], groups=None, show=False)
    return pd.concat([whole, single], ignore_index=True)


def multi_residual(
    branches: int,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    calibration: int,
    seed: int,
    *,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """Test error of a ResNet with so many residual functions a block."""
    data_of = data_set(data, root)
    several: dict[str, Any] = {} if branches == 1 else {"branches": branches}
    model = trained("resnet", layers, seed, data_of, epochs=epochs, folder=folder, **several)
    return _errors(model, data_of, images, calibration)


def _errors(model: nn.Module, data: DataSet, images: int, calibration: int) -> "pd.DataFrame":
    """Error of the whole network, with the statistics it was trained with and with new ones."""
    import pandas as pd

    test = data.test[0][:images], data.test[1][:images]
    values = {"stale": error(model, test)}
    with recalibrated(model, [data.train[0][:calibration]]):
        values["recalibrated"] = error(model, test)
    return pd.DataFrame([_whole(statistics, value, len(test[0])) for statistics, value in values.items()])


def _whole(statistics: str, value: float, images: int) -> dict[str, Any]:
    return {
        **{"quantity": "whole_error", "unit": "share of images", "statistics": statistics},
        **{"value": value, "n": images, "status": "ok", "reason": ""},
    }
