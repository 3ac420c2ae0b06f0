"""One epoch of stochastic gradient descent, and what it draws and decays."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.training.path_options import Step


def run_epoch(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    order: Sequence[Tensor],
    optimiser: torch.optim.SGD,
    step: int,
    before_step: Callable[[int], None],
    taken: Step,
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
        taken.backward(loss)
        optimiser.step()
        step += 1
        loss_sum += value * len(batch)
        wrong += int((logits.detach().argmax(dim=1) != labels[batch]).sum())
        after_step(step)
    return loss_sum / len(inputs), wrong / len(inputs)


def rate_factor(schedule: str, step: int, steps: int) -> float:
    """Learning rate of a step as a share of the highest; depends on nothing else, so it resumes anywhere."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * step / steps)) / 2
    rise = steps / 4
    return 0.1 + 0.9 * step / rise if step < rise else (steps - step) / (steps - rise)


@contextmanager
def own_randomness(model: nn.Module, key: str | None = None) -> Iterator[None]:
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
