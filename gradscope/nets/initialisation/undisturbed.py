"""Running a model without leaving a trace, with the statistics of batch normalisation held still."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Without gradients; modes, buffers, momenta and torch's random states are put back on leaving."""
    modes = [(module, module.training, getattr(module, "momentum", None)) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, training, momentum in modes:
                module.training = training
                if isinstance(module, _BatchNorm):
                    module.momentum = momentum
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def hold_statistics(model: nn.Module, inputs: Tensor) -> None:
    """Give batch normalisation in train mode the statistics of this batch, and put it into eval mode.

    For use inside `undisturbed`. Fresh statistics (mean 0, variance 1) would normalise nothing, and those of the
    batch at hand would make the map depend on the batch.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
    model(inputs)
    for norm in norms:
        norm.training = False


def in_single_precision(model: nn.Module) -> nn.Module:
    """The model itself, or a float32 copy of one in half precision."""
    halved = any(weight.dtype in (torch.float16, torch.bfloat16) for weight in model.parameters())
    return copy.deepcopy(model).float() if halved else model


def placed(model: nn.Module, inputs: Tensor) -> Tensor:
    """The inputs on the device of the model's first parameter, and in its dtype.

    Raises:
        ValueError: They are not one floating-point tensor with at least one example, or not finite.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2 or not len(inputs):
        came = f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(
            f"inputs is one floating-point tensor of examples, [N, ...] with N >= 1; got {came}."
        )
    if not bool(torch.isfinite(inputs).all()):
        raise ValueError(
            "inputs hold infinite or NaN numbers, of which nothing can be seen. Leave those examples out."
        )
    like = next(model.parameters())
    return inputs.detach().to(like.device, like.dtype)
