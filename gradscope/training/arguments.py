"""What `fit` takes and what it refuses."""

import math

import torch
from torch import Tensor, nn

from gradscope.training.path_options import PathOption

SCHEDULES = ("one_cycle", "cosine", "constant")
Pair = tuple[Tensor, Tensor]


def is_pair(data: object) -> bool:
    """Whether data is (inputs, labels)."""
    return (
        isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    )


def refuse_unfit(
    model: nn.Module,
    train: Pair,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    paths: object,
) -> None:
    """Raise ValueError for the first of `fit`'s arguments that is out of range."""
    inputs, labels = train
    if len(inputs) != len(labels):
        raise ValueError(f"Every input needs a label; got {len(inputs)} inputs and {len(labels)} labels.")
    if len(inputs) == 0:
        raise ValueError("There is nothing to train on: the data has no examples.")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"fit classifies: labels are whole numbers [N], got {labels.dtype} {list(labels.shape)}. "
            "Pass class numbers, such as one_hot.argmax(dim=1)."
        )
    if int(labels.min()) < 0:
        raise ValueError(f"Labels are class numbers from 0; the lowest here is {int(labels.min())}.")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size are at least 1; got {epochs} and {batch_size}.")
    if not (0 < learning_rate < math.inf and 0 <= momentum < 1 and 0 <= weight_decay < math.inf):
        raise ValueError(
            "fit needs learning_rate > 0, momentum in [0, 1) and weight_decay >= 0; "
            f"got {learning_rate}, {momentum}, {weight_decay}."
        )
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is one of {', '.join(SCHEDULES)}; got {schedule!r}.")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has no parameter that requires a gradient: nothing to train."
        )
    if paths is not None and not isinstance(paths, PathOption):
        raise ValueError(
            "paths is gs.short_paths(...), gs.exact_blocks(...) or gs.random_depth(...), or None for all paths; "
            f"got {paths!r}."
        )
