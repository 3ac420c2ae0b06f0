"""What must not change about a model and about the random states, and whether it has."""

import random
from typing import Any

import numpy
import torch
from torch import Tensor, nn

HOOKS = [
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything an instrument has to leave as it found it, as numbers and identities."""
    numpy_state = numpy.random.get_state()
    return {
        "tensors": {name: id(tensor) for name, tensor in all_tensors(model).items()},
        "values": {name: as_bytes(tensor) for name, tensor in all_tensors(model).items()},
        "gradients": {n: (id(p.grad), as_bytes(p.grad)) for n, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "momentum": {name: getattr(module, "momentum", None) for name, module in model.named_modules()},
        "hooks": {
            name: {hook: list(getattr(module, hook).items()) for hook in HOOKS}
            for name, module in model.named_modules()
        },
        "global hooks": [
            len(hooks)
            for hooks in (
                torch.nn.modules.module._global_forward_hooks,
                torch.nn.modules.module._global_forward_pre_hooks,
                torch.nn.modules.module._global_backward_hooks,
            )
        ],
        "torch": as_bytes(torch.get_rng_state()),
        "numpy": (numpy_state[0], numpy_state[1].tobytes(), *numpy_state[2:]),
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "function modes": torch._C._len_torch_function_stack(),
    }


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def as_bytes(tensor: Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.detach().contiguous().numpy().tobytes()


def assert_as_found(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    changed = [what for what in before if before[what] != after[what]]
    assert changed == []


def used(model: nn.Module) -> nn.Module:
    """The model with the traces that a user leaves: gradients, a frozen parameter."""
    for place, parameter in enumerate(model.parameters()):
        if place % 2 == 0:
            parameter.grad = torch.full_like(parameter, 0.25)
    next(model.parameters()).requires_grad_(False)
    return model
