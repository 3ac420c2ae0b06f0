"""What a classifier answers, and how often it is wrong."""

import torch
from torch import Tensor, nn

from gradscope.data import DataSet

Pair = tuple[Tensor, Tensor]


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
        return torch.cat([model(beside(model, batch)) for batch in inputs.split(batch_size)])
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


def beside(model: nn.Module, inputs: Tensor) -> Tensor:
    """The inputs on the device of the model's first parameter and, if floating, in its dtype."""
    like = next(model.parameters(), None)
    if like is None:
        return inputs
    return inputs.to(like.device, like.dtype if inputs.is_floating_point() else inputs.dtype)
