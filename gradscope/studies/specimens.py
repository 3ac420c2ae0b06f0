"""Trained networks that several analyses look at: trained once, kept, and resumed where interrupted."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from gradscope.data import DataSet
from gradscope.nets import build
from gradscope.studies.sweep import source_hash
from gradscope.training import fit
from gradscope.training.path_options import PathOption


def untrained(family: str, depth: int, seed: int, data: DataSet, **options: Any) -> nn.Module:
    """A fresh convolutional network for images of `data`, in train mode; `options` as in `nets.build`."""
    return build(
        family, seed=seed, depth=depth, channels=data.train[0].shape[1], classes=data.classes, **options
    )


def trained(
    family: str,
    depth: int,
    seed: int,
    data: DataSet,
    *,
    epochs: int,
    folder: Path | None,
    paths: PathOption | None = None,
    learning_rate: float = 0.1,
    **options: Any,
) -> nn.Module:
    """The same network after training with `fit`'s defaults, in eval mode.

    Args:
        family, depth: As in `nets.build`; the network's weights and the order of the data have this `seed`.
        data: Its training pair is used.
        epochs: Passes over it.
        folder: Where the checkpoint is kept, under a name that holds everything the weights depend on;
            None keeps nothing.
        paths, learning_rate: As in `fit`.
        options: As in `nets.build`.
    """
    model = untrained(family, depth, seed, data, **options)
    facts: list[Any] = [family, depth, seed, data.sha256, epochs, source_hash("nets", "training")]
    facts += [*sorted(options.items()), str(paths)] if options or paths is not None else []
    facts += [learning_rate] if learning_rate != 0.1 else []
    name = (
        f"{family}-{depth}-{seed}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.safetensors"
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    checkpoint = None if folder is None else folder / name
    fit(
        model,
        data,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        checkpoint=checkpoint,
        progress=False,
        paths=paths,
    )
    return model.eval()
