"""What a run on a larger data set will cost, said before it starts."""

import os
import sys
import time
from typing import Any

import torch
from torch.nn import functional

from gradscope.cli.modules import analysis_module
from gradscope.data import DataSet
from gradscope.studies.settings import Settings
from gradscope.studies.specimens import untrained


def announce_cost(settings: Settings) -> None:
    """Print an estimate of the time on standard error; nothing for the embedded digits.

    It counts the networks and passes of the lesion analysis and the products with trained networks'
    Hessians, which cost the most.
    """
    if settings.data == "digits":
        return
    lesions = analysis_module("lesions").PRESETS[settings.preset]
    curvature = analysis_module("conditioning").PRESETS[settings.preset]
    minutes = estimated_minutes(settings, lesions, curvature, settings.data_set())
    print(
        f"estimated cost: about {max(1, round(minutes))} min on this machine for preset {settings.preset} on "
        f"{settings.data} with {len(settings.seeds)} seeds, to within a factor of two. Finished parts are kept.",
        file=sys.stderr,
        flush=True,
    )


STEP = 64


def _seconds_a_step(layers: int, data: DataSet) -> float:
    """Seconds of one training step of 64 images on one thread, as cells run; the second one is timed."""
    model = untrained("resnet", layers, 0, data)
    inputs, labels = data.train[0][:STEP], data.train[1][:STEP]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(2):
            began = time.perf_counter()
            loss = functional.cross_entropy(model(inputs), labels)
            torch.autograd.grad(loss, list(model.parameters()))
        return time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)


def estimated_minutes(settings: Settings, sizes: Any, curvature: Any, data: DataSet) -> float:
    """Minutes of training, lesions and Hessian products, from one timed training step of the residual network."""
    image = _seconds_a_step(sizes.layers, data) / STEP
    # A plain and a residual network, and two smaller ones that come to about half of one.
    training = 2.5 * image * len(data.train[0]) * sizes.epochs
    blocks = (sizes.layers - 2) // 2
    lesions = blocks + len(sizes.sets) * sizes.subsets
    judged = min(sizes.images, len(data.test[0]))
    # A forward pass is a third of a step; every lesion is judged twice and calibrated once, and lesions that
    # begin alike share half of their passes.
    passes = lesions * (2 * judged + min(sizes.calibration, len(data.train[0]))) * image / 3 / 2
    # Eigenvalues and density of two networks; a product costs two and a half gradients.
    products = (
        2 * 6 * curvature.steps * 2.5 * curvature.images * image * curvature.trained_layers / sizes.layers
    )
    cores = settings.workers or os.cpu_count() or 1
    seeds = len(settings.seeds)
    return ((training + passes) * seeds / min(seeds, cores) + products / min(2, cores)) / 60
