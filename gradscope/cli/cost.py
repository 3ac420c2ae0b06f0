"""What a run on a larger data set will cost, said before it starts."""

import os
import sys
import time

import torch
from torch.nn import functional

from gradscope.studies.settings import Settings
from gradscope.studies.specimens import untrained


def announce_cost(settings: Settings) -> None:
    """Print an estimate of the training time on standard error; nothing for the embedded digits."""
    if settings.data == "digits":
        return
    minutes = training_minutes(settings)
    print(
        f"estimated cost: training takes about {minutes:.0f} minutes on this machine for "
        f"{len(settings.seeds)} seeds of preset {settings.preset} on {settings.data}; probing comes on "
        "top. Finished networks are kept.",
        file=sys.stderr,
        flush=True,
    )


def training_minutes(settings: Settings) -> float:
    """Minutes of training for all networks of a report, from one timed step of the residual network."""
    deep, epochs = (110, 15) if settings.preset == "standard" else (56, 4)
    data = settings.data_set()
    model = untrained("resnet", deep, 0, data)
    inputs, labels = data.train[0][:64], data.train[1][:64]
    began = time.perf_counter()
    loss = functional.cross_entropy(model(inputs), labels)
    torch.autograd.grad(loss, list(model.parameters()))
    step = time.perf_counter() - began
    # A plain and a residual network for each seed; the VGG-style and shallow ones add about a fifth.
    networks = 2.2 * len(settings.seeds)
    workers = settings.workers or os.cpu_count() or 1
    return step * (len(data.train[0]) / 64) * epochs * networks / workers / 60
