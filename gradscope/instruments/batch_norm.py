"""What batch normalisation does while a network is measured: one option with one meaning everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

MODES = ("auto", "frozen", "running", "train", "own")


def batch_norm_layers(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Every batch-normalisation module of `model`, lazy and synchronised ones included."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def resolved(model: nn.Module, mode: str) -> dict[nn.Module, str]:
    """What each batch-normalisation module of `model` does under `mode`.

    `auto` becomes `running` for modules in eval mode whose statistics have been updated at least once,
    and `frozen` for all others: fresh running statistics (mean 0, variance 1) normalise nothing.

    Raises:
        ValueError: `mode` is unknown; or `running` is asked of statistics that were never updated.
    """
    if mode not in MODES:
        raise ValueError(f"batch_norm is one of {', '.join(MODES)}, got {mode!r}.")
    chosen: dict[nn.Module, str] = {}
    for layer in batch_norm_layers(model):
        updated = layer.num_batches_tracked is not None and bool(layer.num_batches_tracked > 0)
        if mode == "auto":
            chosen[layer] = "running" if not layer.training and updated else "frozen"
        elif mode == "running" and not updated:
            raise ValueError(
                "batch_norm='running' uses stored statistics, but this model's were never updated (mean 0, "
                "variance 1 normalise nothing). Use batch_norm='frozen', or run the model in train mode first."
            )
        else:
            chosen[layer] = "train" if mode == "own" else mode
    return chosen


def described(model: nn.Module, mode: str) -> str:
    """The name that goes into a result's rows: `none` without batch normalisation, else the mode in force."""
    if mode == "own" and batch_norm_layers(model):
        return "own"
    names = sorted(set(resolved(model, mode).values()))
    return "+".join(names) if names else "none"


@contextmanager
def batch_norm(model: nn.Module, mode: str = "auto") -> Iterator[None]:
    """Run `model` with one meaning of batch normalisation; buffers are never updated.

    Args:
        model: Network; its batch-normalisation modules may be functional calls inside submodules.
        mode: `frozen`: statistics of the batch at hand, treated as constants by the gradient.
            `running`: the stored statistics.
            `train`: statistics of the batch, differentiated through; a summed backward then mixes
            examples (the off-diagonal correlation of plain networks is exactly -1/(B-1)).
            `own`: as `train`; the caller runs one backward pass for each example.
            `auto`: see `resolved`.

    Raises:
        ValueError: As `resolved`.
    """
    by_module = resolved(model, mode)
    by_statistics = {
        id(layer.running_mean): how for layer, how in by_module.items() if layer.running_mean is not None
    }
    default = {"auto": "frozen", "own": "train"}.get(mode, mode)
    modes = [(layer, layer.training) for layer in by_module]
    for layer, _ in modes:
        # Eval mode keeps num_batches_tracked still; what is computed is decided below.
        layer.training = False
    try:
        with _BatchNormMode(by_statistics, default):
            yield
    finally:
        for layer, training in modes:
            layer.training = training


class _BatchNormMode(TorchFunctionMode):
    """Answers every call of `torch.nn.functional.batch_norm` with the meaning asked for."""

    def __init__(self, by_statistics: dict[int, str], default: str) -> None:
        super().__init__()
        self.by_statistics = by_statistics
        self.default = default

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.batch_norm:
            return func(*args, **(kwargs or {}))
        return self.normalise(*args, **(kwargs or {}))

    def normalise(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        how = self.by_statistics.get(id(running_mean), self.default)
        if running_mean is None and how == "running":
            how = "frozen"
        if how == "running":
            return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        if how == "train":
            return functional.batch_norm(input, None, None, weight, bias, True, momentum, eps)
        axes = [0, *range(2, input.ndim)]
        variance, mean = torch.var_mean(input.detach(), dim=axes, correction=0)
        return functional.batch_norm(input, mean, variance, weight, bias, False, momentum, eps)
