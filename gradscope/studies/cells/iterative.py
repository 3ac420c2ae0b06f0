"""Cells of the re-ordering and refinement analyses: one trained network on real images in, one frame out."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.instruments.gates.scaling import scale_branches
from gradscope.instruments.junctions import junctions
from gradscope.studies.frames import where
from gradscope.studies.refinement_study import refinement_study
from gradscope.studies.reordering_study import reordering_study
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained

if TYPE_CHECKING:
    import pandas as pd

MEASURED = (
    *("branch_norm", "stream_norm", "l2_ratio", "cosine_with_loss_gradient"),
    *("estimation_error_mean", "estimation_error_spread", "first_order_lesion", "lesion_loss_change"),
    "early_exit_accuracy",
)
CHANGES = ("first_order_lesion", "lesion_loss_change")


def reorderings(
    family: str,
    layers: int,
    epochs: int,
    data: str,
    seed: int,
    *,
    swaps: Sequence[int],
    draws: int,
    calibration: int,
    images: int,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """Test error of one trained network with its blocks, or a plain one with its layers, in other orders.

    Of the plain network only neighbours of equal shape change places. Statistics are calibrated on the first
    `calibration` training images.
    """
    data_of = data_set(data, root)
    model = trained(family, layers, seed, data_of, epochs=epochs, folder=folder)
    test = data_of.test[0][:images], data_of.test[1][:images]
    inputs = data_of.train[0][:calibration]
    if family == "resnet":
        return reordering_study(
            (model, test),
            swaps=swaps,
            draws=draws,
            interventions=["random order"],
            ends=0,
            calibration=inputs,
            recalibrate=True,
            seed=seed,
            show=False,
        )
    return reordering_study(
        (model, test), groups=equal_layers(layers), swaps=(), calibration=inputs, seed=seed, show=False
    )


def equal_layers(layers: int) -> list[list[str]]:
    """The layers of `vgg` that keep the shape, stage by stage: all but the first of each stage."""
    units = layers - 1
    groups, begin = [], 0
    for stage in range(3):
        end = begin + units // 3 + (stage < units % 3)
        groups.append([f"blocks.{place}" for place in range(begin + 1, end)])
        begin = end
    return [names for names in groups if len(names) > 1]


def refinement(
    layers: int, epochs: int, data: str, seed: int, *, images: int, root: str | None, folder: Path
) -> "pd.DataFrame":
    """What each block of one trained residual network does to the stream, on the first test images."""
    data_of = data_set(data, root)
    model = trained("resnet", layers, seed, data_of, epochs=epochs, folder=folder)
    test = data_of.test[0][:images], data_of.test[1][:images]
    return refinement_study((model, test), what=MEASURED, show=False)


def small_branches(
    layers: int,
    scale: float,
    epochs: int,
    data: str,
    seed: int,
    *,
    images: int,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """Measured and first-order change of the loss by closing each block, once it is scaled down; float64."""
    import pandas as pd

    data_of = data_set(data, root)
    model = copy.deepcopy(trained("resnet", layers, seed, data_of, epochs=epochs, folder=folder)).double()
    test = data_of.test[0][:images].double(), data_of.test[1][:images]
    frames = []
    for junction in junctions(model, test[0][:2]):
        with scale_branches(model, junction, scale):
            frames.append(refinement_study((model, test), junctions=[junction], what=CHANGES, show=False))
    return pd.concat(frames, ignore_index=True)


def branch_norm(
    blocks: int, epochs: int, data: str, seed: int, *, images: int, root: str | None, folder: Path
) -> "pd.DataFrame":
    """Mean norm of what the blocks of one trained residual network add, over blocks that keep the shape."""
    data_of = data_set(data, root)
    model = trained("resnet", 2 * blocks + 2, seed, data_of, epochs=epochs, folder=folder)
    test = data_of.test[0][:images], data_of.test[1][:images]
    norms = where(refinement_study((model, test), what="branch_norm", show=False), kind="identity")
    row = {"quantity": "mean_branch_norm", "unit": norms["unit"].iloc[0]}
    measured = {"value": float(norms["value"].mean()), "n": len(norms), "status": "ok", "reason": ""}
    import pandas as pd

    return pd.DataFrame([row | measured])
