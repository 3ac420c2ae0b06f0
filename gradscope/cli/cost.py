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

COUNTED = (
    *("looks_linear", "lesions", "reordering", "refinement", "paths"),
    *("effective_paths", "ensemble_depth", "conditioning", "smoothness"),
)


def announce_cost(settings: Settings) -> None:
    """Print an estimate of the time on standard error; nothing for the embedded digits.

    It counts the training of all networks, the passes of the lesion, re-ordering, refinement and path analyses
    and the products with trained networks' Hessians, which cost the most.
    """
    if settings.data == "digits":
        return
    sizes = {name: analysis_module(name).PRESETS[settings.preset] for name in COUNTED}
    minutes = estimated_minutes(settings, sizes, settings.data_set())
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


def estimated_minutes(settings: Settings, sizes: dict[str, Any], data: DataSet) -> float:
    """Minutes of training, passes and Hessian products, from one timed training step of the residual network.

    Args:
        settings: Of the run.
        sizes: The presets of the analyses `COUNTED`.
        data: What is trained on.
    """
    linear, lesions, orders, steps, paths, effective, along, curvature, smooth = (
        sizes[name] for name in COUNTED
    )
    image = _seconds_a_step(lesions.layers, data) / STEP
    # A plain and a residual network, two smaller ones that come to about half of one, and those of other depths.
    shallower = sum(2 * blocks + 2 for blocks in steps.blocks if 2 * blocks + 2 != lesions.layers)
    # Six kinds of networks without strides, of half the channels, in batches of half the size.
    several = 6 * sum(linear.layers) * linear.epochs
    # Two more ways to train; one and two branches a block at two depths; one network watched along training.
    several += 3 * (effective.shallow + effective.deep) * effective.multi_epochs + along.layers * along.epochs
    training = (4.5 + shallower / lesions.layers) * image * len(data.train[0]) * lesions.epochs
    # With and without skips and batch normalisation, at a learning rate of their own.
    several += 4 * smooth.layers * smooth.epochs
    training += several / lesions.layers * image * len(data.train[0])
    blocks = (lesions.layers - 2) // 2
    # A forward pass is a third of a step; every lesion is judged twice and calibrated once, and lesions that
    # begin alike share half of their passes.
    closed = (blocks + len(lesions.sets) * lesions.subsets) * _judged_and_calibrated(lesions, data) / 2
    # All pairs of neighbours, swaps, and random orders.
    moved = (blocks + (len(orders.swaps) + 1) * orders.draws) * _judged_and_calibrated(orders, data)
    # A lesion for each block, and an early exit for those of the last stage.
    looked = blocks * 4 / 3 * min(steps.images, len(data.test[0]))
    # Two networks with blocks closed one by one; all lengths in half as many backward passes as there are blocks, for
    # each draw anew, before and after training, and single paths.
    closed += 2 * blocks * min(effective.images, len(data.test[0])) / 2
    split = 2 * ((1 + paths.draws) * blocks / 2 + paths.sampled * blocks / 2) * 2 * paths.images
    passes = (closed + moved + looked + split) * image / 3
    # Eigenvalues and density of two networks, and of four in two states; a product costs two and a half gradients.
    each = 2.5 * image / lesions.layers
    products = 2 * 6 * curvature.steps * each * curvature.images * curvature.trained_layers
    cores = settings.workers or os.cpu_count() or 1
    seeds = len(settings.seeds)
    products += 8 * 6 * smooth.steps * each * smooth.images * smooth.layers * seeds
    return ((training + passes) * seeds / min(seeds, cores) + products / min(2, cores)) / 60


def _judged_and_calibrated(size: Any, data: DataSet) -> int:
    """Images that one altered network sees: judged with stale and recalibrated statistics, calibrated once."""
    return 2 * min(size.images, len(data.test[0])) + min(size.calibration, len(data.train[0]))
