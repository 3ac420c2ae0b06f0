"""Train a classifier: a small loop of stochastic gradient descent that can be resumed and observed."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from gradscope.data import DataSet, hash_of
from gradscope.progress import progress as shown_progress
from gradscope.training import checkpoints
from gradscope.training.arguments import Pair, is_pair, refuse_unfit
from gradscope.training.epoch import own_randomness, rate_factor, run_epoch
from gradscope.training.evaluation import beside, error
from gradscope.training.path_options import PathOption, Step

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ["epoch", "step", "train_loss", "train_error", "test_error", "learning_rate", "seconds"]
Observer = Callable[[nn.Module, int], object]


def fit(
    model: nn.Module,
    data: DataSet | Pair,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    schedule: str = "one_cycle",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
    observe: Observer | Sequence[Observer] | None = None,
    paths: PathOption | None = None,
) -> "DataFrame":
    """Minimise the mean cross-entropy over the training examples by SGD with Nesterov momentum.

    The model is trained in place and left in eval mode, without gradients. torch's global generators are left
    as they were: the order of the examples, and dropout, depend on `seed` and the epoch alone.

    Args:
        model: Maps inputs [N, ...] to logits [N, classes]. Parameters with `requires_grad=False` stay.
        data: A DataSet, or inputs [N, ...] and labels [N] of an integer type. Examples are moved to the
            device, and floating inputs to the dtype, of the model's first parameter.
        epochs: Passes over the training examples.
        batch_size: Examples in a step, at most. An epoch is cut into batches of equal size, give or take one,
            since a small last batch would upset batch normalisation.
        learning_rate: The highest of the schedule.
        momentum: In [0, 1).
        weight_decay: Added as weight_decay * w to the gradient of every parameter.
        schedule: `one_cycle`, linearly up from a tenth over the first quarter of the steps, then linearly
            down to nearly 0; `cosine`, down along half a cosine; `constant`.
        seed: Of the shuffling and of dropout.
        checkpoint: A safetensors file, written whole at the start and after every epoch. If it exists, its
            weights replace those of `model` and training goes on, to the same final weights bit for bit as
            without the interruption (for the same thread count). If it is finished, nothing is trained.
        progress: As `show` in `gradscope.progress`: None for a bar, if standard error is a terminal.
        observe: Called as observe(model, step) before the first step (step 0) and after every step; of several, one
            after the other. It may make passes of its own; train mode and torch's generators are set back after it,
            the rest is its own duty.
        paths: Train on some of the paths through residual blocks only: `short_paths`, `exact_blocks` or
            `random_depth`. Blocks are found once, on a first batch in train mode.

    Returns:
        One row per epoch: `epoch` (from 1), `step` (steps so far), `train_loss` and `train_error` (means over
        the epoch while it went, in train mode), `test_error` (share in [0, 1] after the epoch, in eval mode;
        NaN if there are no test examples), `learning_rate` (of the last step), `seconds` (of the epoch).

    Raises:
        ValueError: Data without examples, of mismatched lengths or with labels that are no classes; an option
            out of range; `paths` for a network without residual blocks; a checkpoint that is damaged or of another
            configuration, which is named.
        FloatingPointError: The loss is NaN or infinite. The parameters are those before the step that met
            it, and the checkpoint, if any, is that of the last whole epoch.

    Example:
        >>> history = fit(build("resnet", depth=20, channels=1, seed=0), digits(), epochs=8)
    """
    if not isinstance(data, DataSet) and not is_pair(data):
        raise ValueError(
            f"fit trains on a DataSet or on a pair (inputs, labels) of tensors, got {type(data).__name__}. "
            "Put the batches together with torch.cat."
        )
    train, test = (data.train, data.test) if isinstance(data, DataSet) else (data, None)
    refuse_unfit(model, train, epochs, batch_size, learning_rate, momentum, weight_decay, schedule, paths)
    observers = () if observe is None else (observe,) if callable(observe) else tuple(observe)
    inputs = beside(model, train[0])
    labels = train[1].to(inputs.device, torch.int64)
    batches = math.ceil(len(inputs) / batch_size)
    optimiser = torch.optim.SGD(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=momentum > 0,
    )
    configuration: dict[str, object] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "seed": seed,
        "paths": None if paths is None else str(paths),
    }
    history: checkpoints.History = []
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        configuration["data"] = data.sha256 if isinstance(data, DataSet) else hash_of(data)
        configuration["model"] = checkpoints.fingerprint(model)
        if path.exists():
            history = checkpoints.resume(path, model, optimiser, configuration)

    def before_step(step: int) -> None:
        taken.number = step
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * rate_factor(schedule, step, epochs * batches)

    def after_step(step: int) -> None:
        for observer in observers:
            with own_randomness(model):
                observer(model, step)
            model.train()

    try:
        model.train()
        ahead = len(history) < epochs
        first = inputs.tensor_split(batches)[0]
        with (
            nullcontext(Step()) if paths is None or not ahead else paths.around(model, first) as taken,
            shown_progress("training", epochs - len(history), show=progress) as advance,
        ):
            if path is not None and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                checkpoints.save(path, model, optimiser, configuration, history)
            for epoch in range(len(history), epochs):
                began = time.perf_counter()
                model.train()
                if epoch == 0:
                    after_step(0)
                with own_randomness(model, f"{seed}/{epoch}"):
                    order = torch.randperm(len(inputs), device="cpu").to(inputs.device).tensor_split(batches)
                    loss, wrong = run_epoch(
                        model,
                        inputs,
                        labels,
                        order,
                        optimiser,
                        epoch * batches,
                        before_step,
                        taken,
                        after_step,
                    )
                row = {
                    "epoch": epoch + 1,
                    "step": (epoch + 1) * batches,
                    "train_loss": loss,
                    "train_error": wrong,
                    "test_error": math.nan if test is None or len(test[0]) == 0 else error(model, test),
                    "learning_rate": optimiser.param_groups[0]["lr"],
                    "seconds": time.perf_counter() - began,
                }
                history = [*history, row]
                if path is not None:
                    checkpoints.save(path, model, optimiser, configuration, history)
                advance(1)
    finally:
        optimiser.zero_grad(set_to_none=True)
        model.eval()

    import pandas

    return pandas.DataFrame(history, columns=COLUMNS)
