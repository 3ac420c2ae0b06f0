"""Cells of the path analysis: one fresh or trained network on real images in, one frame out."""

import random
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from gradscope.data import DataSet
from gradscope.instruments.gates.lesion import lesion
from gradscope.instruments.junctions import Junction, junctions, trace
from gradscope.instruments.quiet import left_as_found
from gradscope.problem import Problem
from gradscope.studies.block_participation import block_participation
from gradscope.studies.graded_path_spectrum import graded_path_spectrum
from gradscope.studies.path_moments import path_moments
from gradscope.studies.path_spectrum import path_spectrum
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import trained, untrained

if TYPE_CHECKING:
    import pandas as pd


def path_lengths(
    state: str,
    layers: int,
    epochs: int,
    data: str,
    images: int,
    draws: int,
    sampled: int,
    seed: int,
    *,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """The path spectrum of one residual network on the first test images.

    Args:
        state: `initial`, `initial, train mode` (batch normalisation differentiated through) or `trained`.
    """
    data_of = data_set(data, root)
    model = _network(state, layers, epochs, seed, data_of, folder)
    mode = "train" if state == "initial, train mode" else "auto"
    problem = Problem(model, _first(data_of, images), batch_norm=mode)
    return path_spectrum(problem, draws=draws, sampled=sampled if state == "trained" else 0, seed=seed)


def participation(
    layers: int, epochs: int, data: str, images: int, seed: int, *, root: str | None, folder: Path
) -> "pd.DataFrame":
    """How much of a trained network's gradient passes each block's branch."""
    data_of = data_set(data, root)
    model = _network("trained", layers, epochs, seed, data_of, folder)
    return block_participation((model, _first(data_of, images)))


def by_stage(
    layers: int, epochs: int, data: str, images: int, seed: int, *, root: str | None, folder: Path
) -> "pd.DataFrame":
    """The gradient of a trained network by the blocks crossed in its first stage and in the later ones."""
    data_of = data_set(data, root)
    model = _network("trained", layers, epochs, seed, data_of, folder)
    problem = Problem(model, _first(data_of, images))
    first = junctions(model, problem.first_batch()[0])[0].shape

    def stage(junction: Junction) -> str:
        return "first_stage" if junction.shape == first else "later_stages"

    return graded_path_spectrum(problem, by=lambda branch: stage(branch.junction))


def deletions(
    layers: int,
    epochs: int,
    data: str,
    images: int,
    share: float,
    draws: int,
    seed: int,
    *,
    root: str | None,
    folder: Path,
) -> "pd.DataFrame":
    """Mean path length of a trained network, intact (draw -1) and after closing a share of its blocks at random."""
    import pandas as pd

    data_of = data_set(data, root)
    model = _network("trained", layers, epochs, seed, data_of, folder)
    images_and_classes = _first(data_of, images)
    blocks = list(junctions(model, images_and_classes[0]))
    number = round(share * len(blocks))
    generator = random.Random(seed)
    frames = []
    for draw in range(-1, draws):
        closed = [] if draw < 0 else generator.sample(blocks, number)
        with lesion(model, closed) if closed else nullcontext():
            moments = path_moments((model, images_and_classes), order=1)
        frames.append(moments.assign(draw=draw, closed=len(closed)))
    return pd.concat(frames, ignore_index=True)


def counted(layers: int, data: str, deleted: int, seed: int, *, root: str | None) -> "pd.DataFrame":
    """Paths by length through a ResNet, counted on its graph, and the share left with some random blocks closed.

    Quantities `path_count_share`, of the intact network, and `surviving_fraction`.
    """
    import pandas as pd

    data_of = data_set(data, root)
    model = untrained("resnet", layers, seed, data_of)
    images = data_of.test[0][:2]
    intact = _routes(model, images)
    chosen = random.Random(seed).sample(list(junctions(model, images)), deleted)
    with lesion(model, chosen):
        left = _routes(model, images)
    left += [0] * (len(intact) - len(left))
    values = {
        "path_count_share": [count / sum(intact) for count in intact],
        "surviving_fraction": [after / before for after, before in zip(left, intact, strict=True)],
    }
    return pd.DataFrame(
        [
            {
                "quantity": quantity,
                "unit": "1",
                "path_length": k,
                "value": value,
                "status": "ok",
                "reason": "",
            }
            for quantity, shares in values.items()
            for k, value in enumerate(shares)
        ]
    )


def multi_residual_counts(
    branches: int, layers: int, data: str, seed: int, *, root: str | None
) -> "pd.DataFrame":
    """Number of paths through a network of several residual functions a block, over (1 + branches)^blocks."""
    import pandas as pd

    data_of = data_set(data, root)
    model = untrained("resnet", layers, seed, data_of, branches=branches, width=4)
    blocks = (layers - 2) // 2
    ratio = sum(_routes(model, data_of.test[0][:2])) / (1 + branches) ** blocks
    row = {"quantity": "path_count_ratio", "unit": "1", "value": ratio, "n": blocks}
    return pd.DataFrame([{**row, "status": "ok", "reason": ""}])


def _routes(model: nn.Module, images: Tensor) -> list[int]:
    """The number of paths of each length, exact."""
    with left_as_found(model):
        model.eval()
        return trace(model, model, images).routes().counts()


def _network(state: str, layers: int, epochs: int, seed: int, data: DataSet, folder: Path) -> nn.Module:
    if state == "trained":
        return trained("resnet", layers, seed, data, epochs=epochs, folder=folder)
    return untrained("resnet", layers, seed, data)


def _first(data: DataSet, images: int) -> tuple:
    return data.test[0][:images], data.test[1][:images]
