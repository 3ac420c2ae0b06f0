"""Batch-norm statistics estimated anew for a network that has just been altered."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gradscope.instruments.batch_norm import batch_norm_layers
from gradscope.instruments.quiet import random_state_kept


@contextmanager
def recalibrated(
    model: nn.Module, batches: Sequence[Any], forward: Callable[[Any], Any] | None = None
) -> Iterator[None]:
    """Let stored batch-norm statistics be those of `batches`, averaged over them, while the block lasts.

    A lesion leaves the statistics of the intact network behind; most of what is called ensemble-like
    degradation in networks with batch normalisation is that mismatch, not missing paths. One pass
    without gradients for each batch, no labels; statistics, counters and modes are put back on leaving.

    It is also the way to calibrate a fresh network, whose stored statistics (mean 0, variance 1) normalise nothing:
    inside the block they are those of one batch up to B/(B-1) in the variance, and `batch_norm="running"` or eval mode
    gives what `frozen` gives on that batch.

    Args:
        model: Network in the state to calibrate, for example inside `lesion`. Without batch-norm
            modules nothing happens.
        batches: Inputs, each [N, ...]; the variance is the unbiased one, as torch stores it.
        forward: How the model is called on a batch, where `model(batch)` is not right.
    """
    layers = [layer for layer in batch_norm_layers(model) if layer.track_running_stats]
    if not layers:
        yield
        return
    found = [
        (layer, layer.momentum, layer.training, {n: b.clone() for n, b in layer.named_buffers(recurse=False)})
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.reset_running_stats()
            # Without momentum, torch averages the batches with equal weight.
            layer.momentum = None
            layer.train()
        # Dropout of a model in train mode draws, which must not show outside.
        with torch.no_grad(), random_state_kept():
            for inputs in batches:
                (model if forward is None else forward)(inputs)
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer, momentum, training, buffers in found:
            layer.momentum = momentum
            layer.training = training
            for name, value in buffers.items():
                getattr(layer, name).copy_(value)
