"""Which states are sequences of tokens, and how those are read: padding left out, token by token or at the last."""

from typing import Any

import torch
from torch import Tensor

from gradscope.instruments.junctions.source import tensors_of
from gradscope.studies.refinement.logit_lens import token_weights


def are_tokens(state: Tensor, inputs: Any, output_shape: tuple[int, ...]) -> bool:
    """Whether a state [N, T, D] has tokens on its second axis, as opposed to the channels of [N, C, L].

    Its shape does not tell, so one of these has to: an attention mask [N, T], integer inputs [N, T], or an output
    [N, T, ...] of the network. All other states are to be flattened.
    """
    if state.ndim != 3:
        return False
    length = list(state.shape[:2])
    if token_weights(inputs, length) is not None:
        return True
    if len(output_shape) > 2 and list(output_shape[:2]) == length:
        return True
    return any(
        list(tensor.shape) == length
        for tensor in tensors_of(inputs)
        if not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    )


def without_padding(state: Tensor, inputs: Any) -> Tensor:
    """A state [N, T, D] with zeros where the attention mask says padding; others as they are."""
    weights = token_weights(inputs, state.shape[:2]) if state.ndim == 3 else None
    return state if weights is None else torch.where((weights > 0).unsqueeze(-1), state, 0.0)


def at_last_token(state: Tensor, inputs: Any) -> Tensor:
    """[N, T, D] at the last token that counts, [N, D]."""
    weights = token_weights(inputs, state.shape[:2])
    if weights is None:
        return state[:, -1]
    steps = torch.arange(state.shape[1], device=state.device)
    last = torch.where(weights > 0, steps, 0).amax(dim=1)
    return state[torch.arange(len(state), device=state.device), last]


def token_means(states: Tensor, inputs: Any) -> Tensor:
    """[N, T, D] averaged over tokens that count, [N, D]."""
    weights = token_weights(inputs, states.shape[:2])
    if weights is None:
        return states.mean(dim=1)
    counted = torch.where((weights > 0).unsqueeze(-1), states * weights.unsqueeze(-1), 0.0)
    return counted.sum(dim=1) / weights.sum(dim=1, keepdim=True)
