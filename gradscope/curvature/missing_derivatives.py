"""Operations that cannot be differentiated twice: torch's errors in plain words, and one way around."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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


def nodes_behind(value: Tensor) -> Iterator[Any]:
    """The nodes of the autograd graph of a value."""
    waiting: list[Any] = [value.grad_fn]
    seen: set[Any] = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        new = [operand for operand, _ in node.next_functions if operand not in seen]
        seen.update(new)
        waiting.extend(new)


def normalises_with_bias_alone(value: Tensor) -> str | None:
    """The name of a node that normalises with a bias to be differentiated by and without a weight; None without.

    Torch's second derivatives of such nodes lose the bias or raise an error of their own.
    """
    for node in nodes_behind(value):
        if (
            "NormBackward" not in node.name()
            or len(node.next_functions) < 3
            or not hasattr(node, "_saved_weight")
        ):
            continue
        if node.next_functions[2][0] is not None and node._saved_weight is None:
            return str(node.name())
    return None


def refuse_bias_alone(value: Tensor) -> None:
    """Raise where double backward would lose a bias.

    Raises:
        ValueError: As `normalises_with_bias_alone` finds it.
    """
    name = normalises_with_bias_alone(value)
    if name is not None:
        raise ValueError(
            f"The operator needs a second derivative that torch has wrong: {name} of a normalisation that has a bias "
            "but no weight. Pass torch.ones(...) as its weight, or add the bias after it."
        )


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
