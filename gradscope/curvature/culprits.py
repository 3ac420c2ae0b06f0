"""Who is to blame when a Hessian fails its checks, and what to do about it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from gradscope.problem import Problem


def changing_part(problem: Problem) -> str:
    """Why two passes over the same problem gave different losses."""
    with problem.prepared(), torch.no_grad():
        inputs, targets = problem.first_batch()
        if not torch.equal(problem.losses(inputs, targets), problem.losses(inputs, targets)):
            drops = [
                name or "the model"
                for name, module in problem.model.named_modules()
                if "drop" in type(module).__name__.lower()
            ]
            named = f" Modules that drop: {', '.join(drops)}." if drops else ""
            return (
                "the network is random even in eval mode, as functional.dropout without "
                f"training=self.training is.{named} Switch the randomness off while measuring."
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


def wrong_layer(model: nn.Module) -> str:
    """Which module may have a wrong second derivative."""
    parametrised = [
        name or "the model" for name, module in model.named_modules() if hasattr(module, "parametrizations")
    ]
    parametrised += [
        name or "the model"
        for name, module in model.named_modules()
        if any(type(hook).__name__ == "WeightNorm" for hook in module._forward_pre_hooks.values())
    ]
    if parametrised:
        return (
            f"{', '.join(parametrised)} is parametrised, and torch's second derivative of weight_norm is "
            "wrong. Write w = g * v / v.norm(dim=1, keepdim=True) in plain operations, or remove it."
        )
    return (
        "some layer has a wrong second derivative (a custom autograd.Function?), or the point lies on "
        "a kink. Freeze layers one by one with parameters=... to find it."
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(_equal(value, other[key]) for key, value in one.items())
    return bool(one == other)
