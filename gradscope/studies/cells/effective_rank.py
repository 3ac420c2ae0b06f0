"""Cells of the effective-rank analysis: one fresh convolutional network and real images in, one frame out."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradscope.gradients.input_gradients import input_gradients
from gradscope.measures.gram_cosines import cosines
from gradscope.measures.gram_ranks import stable_rank
from gradscope.measures.gram_white_noise import white_stable_rank
from gradscope.problem import Problem
from gradscope.studies.settings import data_set
from gradscope.studies.specimens import untrained

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 256
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {"family": "plain"},
    "residual, beta 1": {"family": "resnet", "beta": 1.0},
    "residual, beta 0.1": {"family": "resnet", "beta": 0.1},
}


def effective_rank(
    family: str, layers: int, minibatches: int, data: str, seed: int, *, root: str | None
) -> "pd.DataFrame":
    """Relative effective rank of the input gradients of one fresh network of `FAMILIES`, mean over minibatches.

    256 random training images a minibatch, batch statistics frozen at its own; the sum of the outputs is
    differentiated. `stable_rank` is the mean of tr K / lambda_max, `relative_effective_rank` that over white noise's.
    """
    import pandas as pd

    ranks, white = [], math.nan
    for draw in range(minibatches):
        rows = _gradients(family, layers, data, seed, draw, root)
        ranks.append(float(stable_rank(rows @ rows.T)))
        white = white_stable_rank(*rows.shape)
    mean = sum(ranks) / len(ranks)
    found = {"stable_rank": (mean, "directions"), "relative_effective_rank": (mean / white, "1")}
    rows_ = [
        {"quantity": quantity, "unit": unit, "value": value, "n": EXAMPLES, "white": white}
        for quantity, (value, unit) in found.items()
    ]
    frame = pd.DataFrame(rows_).assign(batch_norm="frozen", reason="")
    return frame.assign(
        status=frame["value"].map(lambda value: "ok" if math.isfinite(value) else "undefined")
    )


def cosine_picture(
    family: str, layers: int, shallowest: int, shown: int, data: str, seed: int, *, root: str | None
) -> "pd.DataFrame":
    """Cosines between some images' gradients, in the order of a clustering of the shallowest network's gradients.

    Ten clusters at most, by k-means of directions, in the network of the same family and `shallowest` layers, so
    that one family's pictures share their order. Rows `i`, `j` (places in that order) and `value`.
    """
    import pandas as pd
    from sklearn.cluster import KMeans

    reference = _directions(_gradients(family, shallowest, data, seed, 0, root)[:shown])
    clusters = KMeans(n_clusters=min(10, shown // 4), n_init=4, random_state=seed).fit(reference.numpy())
    order = torch.from_numpy(clusters.labels_).argsort(stable=True)
    matrix = cosines_of(_gradients(family, layers, data, seed, 0, root)[:shown][order])
    first, second = torch.meshgrid(torch.arange(shown), torch.arange(shown), indexing="ij")
    return pd.DataFrame(
        {
            **{
                "quantity": "cosine",
                "unit": "1",
                "i": first.flatten().tolist(),
                "j": second.flatten().tolist(),
            },
            "value": matrix.flatten().tolist(),
        }
    )


def cosines_of(rows: Tensor) -> Tensor:
    """Cosines between rows, [N, N]."""
    scaled = rows / rows.abs().amax(dim=1, keepdim=True)
    return cosines(scaled @ scaled.T)


def _directions(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def _gradients(family: str, layers: int, data: str, seed: int, draw: int, root: str | None) -> Tensor:
    """Input gradients of one minibatch of 256 random images, one row an image, float64."""
    images = data_set(data, root)
    options = dict(FAMILIES[family])
    model = untrained(options.pop("family"), layers, seed, images, **options)
    generator = torch.Generator().manual_seed(1000 * seed + draw)
    chosen = torch.randperm(len(images.train[0]), generator=generator)[:EXAMPLES]
    return input_gradients(Problem(model, images.train[0][chosen])).double().flatten(start_dim=1)
