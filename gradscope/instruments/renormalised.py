"""Embeddings with `max_norm`, whose forward pass writes to their weight."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def renormalising_weights(model: nn.Module) -> dict[str, Tensor]:
    """By name, the weights that modules with `max_norm` shorten whenever they look rows up."""
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if getattr(module, "max_norm", None) is not None
        and isinstance(getattr(module, "weight", None), Tensor)
    }


@contextmanager
def renormalising_refused(model: nn.Module, title: str) -> Iterator[None]:
    """See that no forward pass inside shortens rows; one that finds them short already is welcome.

    Args:
        model: Any module.
        title: What is being measured, for the error.

    Raises:
        ValueError: On leaving, where rows were shortened: by more than rounding, which a second look may move.
    """
    before = {name: weight.detach().clone() for name, weight in renormalising_weights(model).items()}
    yield
    for name, weight in renormalising_weights(model).items():
        if name in before and not torch.allclose(weight.detach(), before[name], rtol=1e-6, atol=0):
            raise ValueError(
                f"The {title} is of the loss at the model's parameters, but the forward pass shortens rows of {name}, "
                "whose module has max_norm. Run the model once on all of the data, so that they are short, or set "
                "max_norm to None while measuring."
            )
