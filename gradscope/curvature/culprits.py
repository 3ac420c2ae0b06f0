"""Who is to blame when an operator fails its checks, and what to do about it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from gradscope.problem import Problem

Told = tuple[str, tuple[float, ...]]
"""A module's name, and what its output was, as sums."""


def changing_part(problem: Problem) -> str:
    """Why two passes over the same problem gave different losses."""
    with problem.prepared(), torch.no_grad():
        inputs, targets = problem.first_batch()
        passes: list[list[Told]] = []
        losses = []
        for _ in range(2):
            with _outputs_told(problem.model) as told:
                losses.append(problem.losses(inputs, targets))
            passes.append(told)
        if not torch.equal(*losses):
            return (
                f"the network is random even in eval mode, as functional.dropout without training=self.training is: "
                f"{_random_module(problem.model, passes)} Switch the randomness off while measuring."
            )
        again = problem.first_batch()[0]
    loader = problem.data
    if isinstance(loader, DataLoader) and not isinstance(loader.sampler, SequentialSampler):
        return (
            f"the DataLoader shuffles ({type(loader.sampler).__name__}) and its batches are not "
            "interchangeable (drop_last, or statistics of the batch). Build it with shuffle=False, or "
            "pass list(loader)."
        )
    if not _equal(inputs, again):
        return "the data is different on each pass (augmentation or shuffling). Pass list(loader)."
    return "the network is not deterministic; torch.use_deterministic_algorithms(True) finds the operation."


def not_finite_part(problem: Problem) -> str:
    """Where a loss or gradient stops being finite."""
    bad = [name for name, p in problem.model.named_parameters() if not bool(p.detach().isfinite().all())]
    if bad:
        return f"parameters {', '.join(bad)} are not finite. Did training diverge? Take an earlier state."
    with problem.prepared(), torch.no_grad():
        for number, (inputs, targets) in enumerate(problem.batches()):
            if not all(bool(tensor.isfinite().all()) for tensor in _floating(inputs)):
                return f"the inputs of batch {number} are not finite. Remove or fill such examples."
            with _outputs_told(problem.model) as told:
                problem.losses(inputs, targets)
            for name, sums in told:
                if not all(torch.isfinite(torch.tensor(sums, dtype=torch.float64))):
                    return (
                        f"the output of {_described(problem.model, name)} is the first that is not finite, on batch "
                        f"{number}. Look for overflow, a logarithm of 0 or a division by 0 there."
                    )
    return "outputs are finite, so it is the loss or a derivative: a logarithm of 0, or a square root at 0."


def wrong_layer(model: nn.Module, own: Sequence[str] = (), reduced: Sequence[str] = ()) -> str:
    """Which module may have a wrong second derivative.

    Args:
        model: The network.
        own: Names of the custom autograd functions it runs.
        reduced: Types of half precision that parts of it are computed in.
    """
    if reduced:
        return (
            f"part of the network is computed in {', '.join(reduced)}, and what rounding leaves is no derivative. "
            "Take autocast, or the cast, out of its forward while measuring."
        )
    normalised = weight_normalised(model, model.parameters())
    if normalised:
        return (
            f"{', '.join(normalised)} is parametrised, and torch's second derivative of weight_norm is wrong by "
            "its direction. Write w = g * v / v.norm(dim=1, keepdim=True) in plain operations or remove it; "
            "gauss_newton and empirical_fisher are right with it."
        )
    if own:
        return (
            f"the network runs custom autograd functions ({', '.join(own)}), whose backward is not differentiable or "
            "wrongly so. Write it in torch operations on saved tensors, without once_differentiable or detach."
        )
    return (
        "some layer has a wrong second derivative, or the point lies on a kink or a jump of the network. Freeze "
        "layers one by one with parameters=... to find it."
    )


def weight_normalised(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[str]:
    """Names of the modules with torch's weight_norm, of whose lengths or directions some are among the parameters."""
    wanted = {id(parameter) for parameter in parameters}
    return [
        name or "the model"
        for name, module in model.named_modules()
        if _weight_normalised(module)
        and any(
            id(parameter) in wanted
            for part, parameter in module.named_parameters()
            if part.startswith("parametrizations.") or part.endswith(("_g", "_v"))
        )
    ]


def _weight_normalised(module: nn.Module) -> bool:
    lists = getattr(module, "parametrizations", {})
    new = (
        any(type(part).__name__ == "_WeightNorm" for parts in lists.values() for part in parts)
        if lists
        else False
    )
    return new or any(type(hook).__name__ == "WeightNorm" for hook in module._forward_pre_hooks.values())


def _random_module(model: nn.Module, passes: Sequence[Sequence[Told]]) -> str:
    """The innermost module whose output was the first to differ between two passes."""
    for (name, sums), (other, sums_again) in zip(*passes, strict=False):
        if name != other:
            return f"after {_described(model, name)} another module ran than before."
        if sums != sums_again:
            return f"{_described(model, name)} gave another output the second time."
    return "no module did, so it is a function called between them or in the loss."


def _described(model: nn.Module, name: str) -> str:
    return f"{name or 'the model itself'} ({type(model.get_submodule(name)).__name__})"


@contextmanager
def _outputs_told(model: nn.Module) -> Iterator[list[Told]]:
    """Take down what every module puts out, inner ones first, as sums; nothing is kept or changed."""
    told: list[Told] = []

    def listener(name: str) -> Any:
        def listen(module: nn.Module, arguments: Any, output: Any) -> None:
            tensors = _floating(output)
            # With weights 1, 2, 3, ... in turn, so that a permutation changes the sum.
            told.append((name, tuple(_fingerprint(tensor) for tensor in tensors)))

        return listen

    handles = [module.register_forward_hook(listener(name)) for name, module in model.named_modules()]
    try:
        yield told
    finally:
        for handle in handles:
            handle.remove()


def _fingerprint(tensor: Tensor) -> float:
    flat = tensor.detach().flatten().double()
    return float(flat @ torch.arange(1, len(flat) + 1, dtype=torch.float64, device=flat.device))


def _floating(value: Any) -> list[Tensor]:
    """The floating-point tensors of a structure."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in _floating(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in _floating(part)]
    return []


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(_equal(value, other[key]) for key, value in one.items())
    return bool(one == other)
