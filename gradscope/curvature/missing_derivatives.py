"""Operations that cannot be differentiated twice: torch's errors in plain words, and one way around."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_REMEDIES = (
    ("cudnn", "Run the recurrent layer with torch.backends.cudnn.flags(enabled=False)."),
    (
        "embedding_bag",
        "Replace nn.EmbeddingBag by nn.Embedding and a sum or mean over the bag, or freeze it.",
    ),
    ("ctc", "Use a loss written in differentiable operations, such as a log-sum-exp over alignments."),
    ("margin", "Write the loss with relu, for example (1 - y * output).relu().square().sum(dim=1)."),
    ("cdist", "Write distances as (a[:, None] - b).square().sum(dim=-1).sqrt()."),
    ("attention", "Run it inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."),
)
"""What to do about operations by what torch's sentence names; the first that occurs counts."""


@contextmanager
def second_derivative_errors() -> Iterator[None]:
    """Turn torch's errors about missing second derivatives into one that names the operation and the remedy.

    Raises:
        ValueError: In place of such an error; others pass.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error).splitlines()[0]
        if "compiled" in message or "torch.compile" in message or "aot_autograd" in message:
            raise ValueError(
                "The operator differentiates the gradient, which compiled modules do not support "
                f"({message}). Pass the module that was compiled, model._orig_mod."
            ) from error
        if "use_reentrant" in message:
            raise ValueError(
                "The operator calls torch.autograd.grad, which reentrant checkpoints do not support. Pass "
                "use_reentrant=False to torch.utils.checkpoint."
            ) from error
        if _once_only(message):
            named = message.lower()
            remedy = next((say for key, say in _REMEDIES if key in named), _ANY)
            raise ValueError(
                f"The operator needs a second derivative that torch does not have: {message} {remedy}"
            ) from error
        raise


@contextmanager
def recurrent_by_torch(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep cuDNN away while a network with recurrent layers runs on a GPU: its kernels have no second derivative."""
    recurrent = device.type == "cuda" and any(isinstance(module, nn.RNNBase) for module in model.modules())
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = before and not recurrent
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


_ANY = "Replace that operation, or freeze the parameters below it (parameters=...)."


def _once_only(message: str) -> bool:
    known = (
        "derivative for",
        "not differentiable",
        "double backward",
        "Double backward",
        "once_differentiable",
    )
    return any(words in message for words in known)
