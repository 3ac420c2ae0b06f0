"""Cell of the training comparison: do looks-linear networks without skips train where others fail?

Balduzzi et al. (2017), The Shattered Gradients Problem, arXiv:1702.08591, section 5, on smaller images and networks.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gradscope.data import DataSet
from gradscope.nets import build, initialise
from gradscope.studies.settings import data_set
from gradscope.studies.sweep import source_hash
from gradscope.training import fit

if TYPE_CHECKING:
    import pandas as pd

WIDTH, POOLED, BATCH = 8, 4, 32

FAMILIES: dict[str, dict[str, Any]] = {
    "looks-linear CReLU": {"activation": "crelu"},
    "CReLU": {"activation": "crelu"},
    "ReLU": {"activation": "relu"},
    "linear": {"activation": "linear"},
    "residual (batch norm)": {},
}
"""Options of `plain_conv` (of `resnet`: none). Every family starts at the scale that keeps the variance of its
activations: He with gain sqrt(2) for ReLU and CReLU, gain 1 for the linear network."""

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
RATES: dict[str, dict[int, float]] = {
    "looks-linear CReLU": {8: 0.01, 20: 0.01, 44: 0.003},
    "CReLU": {8: 0.01, 20: 0.01, 44: 0.01},
    "ReLU": {8: 0.03, 20: 0.01, 44: 0.01},
    "linear": {8: 0.03, 20: 0.01, 44: 0.003},
    "residual (batch norm)": {8: 0.1, 20: 0.1, 44: 0.1},
}
"""Family -> depth -> learning rate. Each is the one of `LEARNING_RATES` with the lowest mean training loss of the third
epoch on the digits over two pilot seeds, 100 and 101, among those at which neither diverged: the same search for every
family, on seeds that no comparison uses."""


def training(
    family: str,
    depth: int,
    epochs: int,
    data: str,
    seed: int,
    *,
    root: str | None,
    folder: Path | None,
    pooled: int = POOLED,
    learning_rate: float | None = None,
) -> "pd.DataFrame":
    """Train one fresh network and read the last epoch.

    Args:
        family: One of `FAMILIES`.
        depth: Layers with weights; of the residual network, the nearest that it has (8, 14, 20, ...).
        epochs: Passes over the training images, of batches of 32, by `fit`'s one-cycle schedule and momentum.
        pooled: As in `plain_conv`; the residual network averages over what its strides leave of the image.
        learning_rate: None for that of `RATES` at the nearest depth; beyond the deepest, times its depth over this
            one, for all families alike.

    Returns:
        `train_loss`, `train_error` (while the last epoch went) and `test_error` (after it). Where the loss became
        infinite or NaN, all three are `undefined`, with the step in the reason; chance is not put in their place.
    """
    import pandas as pd

    if family not in FAMILIES:
        raise ValueError(f"family is one of {', '.join(FAMILIES)}; got {family!r}.")
    images = data_set(data, root)
    rate = rate_of(family, depth) if learning_rate is None else learning_rate
    model = fresh(family, depth, seed, images, pooled)
    facts = [
        family,
        depth,
        epochs,
        seed,
        pooled,
        rate,
        images.sha256,
        source_hash("nets", "training"),
        WIDTH,
        BATCH,
    ]
    name = f"looks-linear-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.safetensors"
    reason, last = "", {"train_loss": float("nan"), "train_error": float("nan"), "test_error": float("nan")}
    try:
        history = fit(
            model,
            images,
            epochs=epochs,
            batch_size=BATCH,
            learning_rate=rate,
            seed=seed,
            checkpoint=None if folder is None else folder / name,
            progress=False,
        )
        last = {quantity: float(history[quantity].iloc[-1]) for quantity in last}
    except FloatingPointError as error:
        reason = f"training diverged: {error}"
    frame = pd.DataFrame(
        [
            {"quantity": quantity, "unit": "nat" if quantity == "train_loss" else "1", "value": value}
            for quantity, value in last.items()
        ]
    )
    return frame.assign(learning_rate=rate, status="undefined" if reason else "ok", reason=reason)


def fresh(family: str, depth: int, seed: int, data: DataSet, pooled: int = POOLED) -> nn.Module:
    """The network of a family at its start."""
    sizes = {"depth": depth, "width": WIDTH, "channels": data.train[0].shape[1], "classes": data.classes}
    if family == "residual (batch norm)":
        return build("resnet", seed=seed, **sizes | {"depth": max(8, 6 * round((depth - 2) / 6) + 2)})
    model = build("plain_conv", seed=seed, pooled=pooled, **FAMILIES[family], **sizes)
    if family == "looks-linear CReLU":
        return initialise(model, "looks_linear", seed=seed, inputs=data.train[0][:8])
    return initialise(model, "he", gain=1.0, seed=seed) if family == "linear" else model


def rate_of(family: str, depth: int) -> float:
    """The learning rate at which a family is trained at a depth; see `RATES`."""
    known = RATES[family]
    nearest = min(known, key=lambda other: abs(other - depth))
    return known[nearest] * min(1.0, max(known) / depth)
