"""Where in the graph of a forward pass the outputs of layers come to stand."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge

from gradscope.gradients.grams.layers import Layer
from gradscope.instruments.checkpointed import computed_again
from gradscope.instruments.listen import first_tensor


class Outputs(dict[str, list[GradientEdge]]):
    """Edges by the layer's name, one for each call.

    Attributes:
        computed_again: Some layer ran where the backward pass will compute the forward once more.
    """

    computed_again = False


@contextmanager
def outputs_of(layers: Sequence[Layer]) -> Iterator[Outputs]:
    """The outputs of these layers while the block runs."""
    found = Outputs()

    def hook(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        found.computed_again = found.computed_again or computed_again()
        # A function mode would be asked each time a tensor is asked for its graph.
        with torch._C.DisableTorchFunction():
            tensor = first_tensor(output)
            if tensor is not None and tensor.requires_grad:
                # At once: an operation in place would move the tensor on to another node.
                found.setdefault(name, []).append(torch.autograd.graph.get_gradient_edge(tensor))

    with ExitStack() as stack:
        for layer in layers:
            handle = layer.module.register_forward_hook(partial(hook, layer.name))
            stack.callback(handle.remove)
        yield found
