"""Train a classifier: a small loop of stochastic gradient descent that can be resumed and observed."""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope import checkpoints
from gradscope.data import DataSet, hash_of

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEDULES = ("one_cycle", "cosine", "constant")
COLUMNS = ["epoch", "step", "train_loss", "train_error", "test_error", "learning_rate", "seconds"]
Pair = tuple[Tensor, Tensor]


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
    observe: Callable[[nn.Module, int], object] | None = None,
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
        progress: Whether to draw a bar on standard error; None for only if that is a terminal.
        observe: Called as observe(model, step) before the first step (step 0) and after every step. It may
            make passes of its own; train mode and torch's generators are set back after it, the rest is its
            own duty.

    Returns:
        One row per epoch: `epoch` (from 1), `step` (steps so far), `train_loss` and `train_error` (means over
        the epoch while it went, in train mode), `test_error` (share in [0, 1] after the epoch, in eval mode;
        NaN if there are no test examples), `learning_rate` (of the last step), `seconds` (of the epoch).

    Raises:
        ValueError: Data without examples, of mismatched lengths or with labels that are no classes; an option
            out of range; a checkpoint that is damaged or of another configuration, which is named.
        FloatingPointError: The loss is NaN or infinite. The parameters are those before the step that met
            it, and the checkpoint, if any, is that of the last whole epoch.

    Example:
        >>> history = fit(build("resnet", depth=20, channels=1, seed=0), digits(), epochs=8)
    """
    train, test = (data.train, data.test) if isinstance(data, DataSet) else (data, None)
    _check(model, train, epochs, batch_size, learning_rate, momentum, weight_decay, schedule)
    inputs = _beside(model, train[0])
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
    }
    history: checkpoints.History = []
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        configuration["data"] = data.sha256 if isinstance(data, DataSet) else hash_of(data)
        configuration["model"] = checkpoints.fingerprint(model)
        if path.exists():
            history = checkpoints.resume(path, model, optimiser, configuration)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoints.save(path, model, optimiser, configuration, history)

    def before_step(step: int) -> None:
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _factor(schedule, step, epochs * batches)

    def after_step(step: int) -> None:
        if observe is not None:
            with _own_randomness(model):
                observe(model, step)
            model.train()

    try:
        with _bar(progress, epochs, done=len(history)) as advance:
            for epoch in range(len(history), epochs):
                began = time.perf_counter()
                model.train()
                if epoch == 0:
                    after_step(0)
                with _own_randomness(model, f"{seed}/{epoch}"):
                    order = torch.randperm(len(inputs), device="cpu").to(inputs.device).tensor_split(batches)
                    loss, wrong = _pass(
                        model, inputs, labels, order, optimiser, epoch * batches, before_step, after_step
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
                advance(row)
    finally:
        optimiser.zero_grad(set_to_none=True)
        model.eval()

    import pandas

    return pandas.DataFrame(history, columns=COLUMNS)


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
    """Outputs [N, ...] for inputs [N, ...], in eval mode; every module's mode is set back afterwards.

    Raises:
        ValueError: No inputs, or a batch size below 1.
    """
    if batch_size < 1 or len(inputs) == 0:
        raise ValueError(
            f"predict needs batch_size >= 1 and inputs; got {batch_size} and {len(inputs)} inputs."
        )
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        return torch.cat([model(_beside(model, batch)) for batch in inputs.split(batch_size)])
    finally:
        for module, mode in modes:
            module.training = mode


def error(model: nn.Module, data: DataSet | Pair, *, batch_size: int = 256) -> float:
    """Share of examples whose largest logit is not their label, in [0, 1], in eval mode.

    Args:
        model: Maps inputs [N, ...] to logits [N, classes].
        data: Inputs and labels; of a DataSet, the test examples.
        batch_size: Examples at once.

    Raises:
        ValueError: No examples, or a batch size below 1.
    """
    inputs, labels = data.test if isinstance(data, DataSet) else data
    predicted = predict(model, inputs, batch_size=batch_size).argmax(dim=1)
    return float((predicted != labels.to(predicted.device)).double().mean())


def _check(
    model: nn.Module,
    train: Pair,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
) -> None:
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


def _pass(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    order: Sequence[Tensor],
    optimiser: torch.optim.SGD,
    step: int,
    before_step: Callable[[int], None],
    after_step: Callable[[int], None],
) -> tuple[float, float]:
    """One epoch, beginning with step number `step`: mean loss, and share of wrong answers, while it went."""
    highest = int(labels.max())
    loss_sum, wrong = 0.0, 0
    for batch in order:
        before_step(step)
        logits = model(inputs[batch])
        if logits.ndim != 2 or highest >= logits.shape[1]:
            raise ValueError(
                f"fit needs logits [N, classes] with a class for every label up to {highest}; "
                f"{type(model).__name__} gave {list(logits.shape)}."
            )
        loss = functional.cross_entropy(logits, labels[batch])
        value = loss.item()
        if not math.isfinite(value):
            rate = optimiser.param_groups[0]["lr"]
            raise FloatingPointError(
                f"The loss is {value} at step {step}, at learning rate {rate:.3g}. "
                "Take a smaller learning_rate, or a network with normalisation; if it happens at step 0, "
                "look for NaN in the data or the weights."
            )
        loss.backward()
        optimiser.step()
        step += 1
        loss_sum += value * len(batch)
        wrong += int((logits.detach().argmax(dim=1) != labels[batch]).sum())
        after_step(step)
    return loss_sum / len(inputs), wrong / len(inputs)


def _factor(schedule: str, step: int, steps: int) -> float:
    """Learning rate of a step as a share of the highest; depends on nothing else, so it resumes anywhere."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * step / steps)) / 2
    rise = steps / 4
    return 0.1 + 0.9 * step / rise if step < rise else (steps - step) / (steps - rise)


def _beside(model: nn.Module, inputs: Tensor) -> Tensor:
    """The inputs on the device of the model's first parameter and, if floating, in its dtype."""
    like = next(model.parameters(), None)
    if like is None:
        return inputs
    return inputs.to(like.device, like.dtype if inputs.is_floating_point() else inputs.dtype)


@contextmanager
def _own_randomness(model: nn.Module, key: str | None = None) -> Iterator[None]:
    """Put torch's generators back afterwards; inside, seed them from a hash of the key if there is one."""
    devices = {weight.device for weight in model.parameters() if weight.is_cuda}
    with torch.random.fork_rng(devices):
        if key is not None:
            number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
            torch.default_generator.manual_seed(number)
            for device in devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(number)
        yield


@contextmanager
def _bar(wanted: bool | None, epochs: int, done: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar on standard error, or nothing; yields what to call with every finished row."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda row: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=epochs, completed=done)

        def advance(row: dict[str, float]) -> None:
            bar.update(task, advance=1, description=f"loss {row['train_loss']:.3f}")

        yield advance
