"""What batch normalisation does while a network is measured: one option with one meaning everywhere."""

import warnings
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


def warn_of_mixing(problem: Any) -> None:
    """Warn, by a UserWarning, where one backward pass over a batch mixes the gradients of its examples.

    Differentiated through, the statistics of a batch make every example's output depend on all inputs, so that rows
    of a summed backward are sums of d f_j / d x_i over j: not the gradients of examples. Where inputs reach the output
    only through a linear map followed by batch normalisation, their mean correlation is then exactly -1/(B-1), at
    every depth. To be called by whatever reads such rows as examples' gradients, before it does.

    Args:
        problem: Anything with a `model` and a `batch_norm` mode.

    Source:
        The law is derived; see `tests/instruments/test_batch_norm_laws.py`.
    """
    mode = problem.batch_norm
    mixing = mode != "own" and "train" in resolved(problem.model, mode).values()
    if mixing:
        warnings.warn(
            "batch_norm='train' differentiates through the batch's statistics, so one backward pass over the batch "
            "mixes its examples, and what is reported as an example's gradient is a sum over all of them. Use "
            "batch_norm='frozen', or 'own' for exact gradients at one backward pass for each example.",
            UserWarning,
            stacklevel=3,
        )


class Statistics:
    """Frozen statistics of one forward pass, to be those of others: parts of its batch, for example.

    The pass that runs first records the mean and variance of every frozen call, in the order of calls; after
    `again()` the next pass is given them back.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._next: int | None = None

    def again(self) -> None:
        """Give back from the first call on, from now on."""
        self._next = 0

    def of(self, input: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
        """Mean and variance of a call.

        Raises:
            ValueError: More calls than were recorded.
        """
        if self._next is None:
            self._kept.append(_mean_and_variance(input, axes))
            return self._kept[-1]
        if self._next == len(self._kept):
            raise ValueError(
                f"Batch normalisation ran {len(self._kept)} times on the whole batch and more often on a part of it. "
                "Use batch_norm='running' for a network whose depth depends on its input."
            )
        self._next += 1
        return self._kept[self._next - 1]


@contextmanager
def batch_norm(model: nn.Module, mode: str = "auto", statistics: Statistics | None = None) -> Iterator[None]:
    """Run `model` with one meaning of batch normalisation; buffers are never updated.

    Args:
        model: Network; its batch-normalisation modules may be functional calls inside submodules.
        mode: `frozen`: statistics of the batch at hand, treated as constants by the gradient.
            `running`: the stored statistics. Fresh ones are made by `instruments.recalibrate`: inside of
            `recalibrated(model, [inputs])` they are those of `inputs`, up to B/(B-1) in the variance.
            `train`: statistics of the batch, differentiated through; a summed backward then mixes
            examples (the off-diagonal correlation of plain networks is exactly -1/(B-1)).
            `own`: as `train`; the caller runs one backward pass for each example.
            `auto`: see `resolved`.
        statistics: Where frozen statistics are kept from one pass to others; None: each batch has its own.

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
        with _BatchNormMode(by_statistics, default, statistics):
            yield
    finally:
        for layer, training in modes:
            layer.training = training


class _BatchNormMode(TorchFunctionMode):
    """Answers every call of `torch.nn.functional.batch_norm` with the meaning asked for."""

    def __init__(self, by_statistics: dict[int, str], default: str, statistics: Statistics | None) -> None:
        super().__init__()
        self.statistics = statistics
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
        kept = self.statistics
        mean, variance = _mean_and_variance(input, axes) if kept is None else kept.of(input, axes)
        return functional.batch_norm(input, mean, variance, weight, bias, False, momentum, eps)


def _mean_and_variance(input: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(input.detach(), dim=axes, correction=0)
    return mean, variance
