"""A float32 copy of a model in half precision, which follows it."""

import copy
from typing import Any

import torch
from torch import nn


class SinglePrecision:
    """A copy whose tensors and modes are brought up to date when it is asked for.

    Args:
        model: Any module; changes are seen as far as version counters, `requires_grad` and modes tell.
    """

    def __init__(self, model: nn.Module) -> None:
        self._given = model
        self._copied = copy.deepcopy(model).float()
        self._seen = _state(model)

    def up_to_date(self) -> nn.Module:
        """The copy, in step with the model."""
        now = _state(self._given)
        if now != self._seen:
            _copy_state(self._given, self._copied)
            self._seen = now
        return self._copied


def is_half(model: nn.Module) -> bool:
    """Whether some of the parameters are in half precision."""
    return any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters())


def _state(model: nn.Module) -> tuple[Any, ...]:
    """What changes when a model is trained, frozen or switched."""
    tensors = [*model.parameters(), *model.buffers()]
    modes = tuple(module.training for module in model.modules())
    return tuple((id(tensor), tensor._version, tensor.requires_grad) for tensor in tensors), modes


def _copy_state(model: nn.Module, copied: nn.Module) -> None:
    ours, theirs = ([*m.parameters(), *m.buffers()] for m in (copied, model))
    with torch.no_grad():
        for mine, given in zip(ours, theirs, strict=True):
            mine.copy_(given)
            mine.requires_grad_(given.requires_grad)
    for module, given_module in zip(copied.modules(), model.modules(), strict=True):
        module.training = given_module.training
