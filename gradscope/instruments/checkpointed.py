"""Activation checkpointing: parts of a network that the backward pass computes again."""

import torch


def computed_again() -> bool:
    """Whether what is computed now is not kept for the backward pass but computed again there.

    True inside of `torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`. What acts on the forward pass of the
    whole network, such as a gate, does not act when such a part is run for the second time.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint"
