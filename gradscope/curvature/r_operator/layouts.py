"""The memory layout in which rules keep images."""

from collections.abc import Iterable

import torch
from torch import Tensor

from gradscope.curvature.r_operator.convolution import Convolution
from gradscope.curvature.r_operator.rule import Rule


def settle_layouts(rules: Iterable[Rule]) -> None:
    """Keep images with their channels innermost where float32 convolutions run on a processor.

    oneDNN then need not sort the numbers first, in any of six convolutions. Tensors that several rules keep
    stay one tensor, and each is let go as soon as its copy is there.
    """
    rules = list(rules)
    if not any(isinstance(rule, Convolution) and _gains(rule.saved["input"]) for rule in rules):
        return
    keepers: dict[tuple[object, ...], list[tuple[Rule, str]]] = {}
    for rule in rules:
        for name, tensor in rule.saved.items():
            if tensor.ndim == 4:
                key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
                keepers.setdefault(key, []).append((rule, name))
    for holders in keepers.values():
        rule, name = holders[0]
        copy = rule.saved[name].contiguous(memory_format=torch.channels_last)
        for rule, name in holders:
            rule.saved[name] = copy


def _gains(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.dtype is torch.float32 and tensor.device.type == "cpu"
