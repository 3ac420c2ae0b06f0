"""Leaving a model as it was found, whatever happened in between."""

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import nn

from gradscope.instruments.dense_parts import same_numbers
from gradscope.instruments.renormalised import renormalising_weights


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Put back modes, buffers, `requires_grad`, `.grad` and random states on leaving.

    Values of parameters are not copied: whatever changes them has to undo it itself. Weights of embeddings with
    `max_norm` are, since their forward passes write to them. `.grad` is put back as the object it was; code inside
    the block calls `torch.autograd.grad`, never `.backward()`.

    Args:
        model: Any module. Buffers, of any layout, are cloned, so the block costs their memory once.

    Example:
        >>> with left_as_found(model):
        ...     model.eval()
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    rewritten = [(weight, weight.detach().clone()) for weight in renormalising_weights(model).values()]
    momenta = [
        (module, module.momentum)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
    ]
    with random_state_kept():
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad, gradient in flags:
                parameter.requires_grad_(requires_grad)
                parameter.grad = gradient
            for module, momentum in momenta:
                module.momentum = momentum
            with torch.no_grad():
                for module, name, buffer, _ in buffers:
                    module._buffers[name] = buffer
                copies = [
                    (buffer, value)
                    for _, _, buffer, value in buffers
                    if buffer is not None and value is not None
                ]
                for tensor, value in [*copies, *rewritten]:
                    # Writing also what has not changed would spoil a user's graph that holds the tensor.
                    if not same_numbers(tensor, value):
                        tensor.copy_(value)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put back the random states of torch (CPU and every CUDA device), numpy and Python on leaving."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy_state, python_state = numpy.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            numpy.random.set_state(numpy_state)
            random.setstate(python_state)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector from running; where it was on, it is on again on leaving.

    Making many small objects that all stay alive sets it off again and again, over everything in the process.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
