"""Per-example gradients by the plainest way: one backward pass over a batch of one example after the other."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(net(x), y)


def loop(
    net: nn.Module, x: Tensor, y: Tensor, value: Callable[[nn.Module, Tensor, Tensor], Tensor] = loss_of
) -> dict[str, Tensor]:
    """Per-example gradients of every parameter, [B, numel]: a batch of one example after the other."""
    net.eval().requires_grad_(True)
    rows: dict[str, list[Tensor]] = {}
    for i in range(len(x)):
        net.zero_grad()
        value(net, x[i : i + 1], y[i : i + 1]).backward()
        for name, parameter in net.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            rows.setdefault(name, []).append(gradient.flatten().clone())
    net.zero_grad()
    return {name: torch.stack(own) for name, own in rows.items()}


def output_loop(net: nn.Module, x: Tensor, y: Tensor, name: str) -> Tensor:
    """Per-example gradients at a module's outputs, [B, numel of all its calls]."""
    net.eval().requires_grad_(True)
    rows = []
    for i in range(len(x)):
        outputs: list[Tensor] = []

        def keep(module, arguments, output, outputs=outputs):
            first = output[0] if isinstance(output, tuple) else output
            outputs.append(first)
            # What is changed in place afterwards is a copy.
            return (first.clone(), *output[1:]) if isinstance(output, tuple) else first.clone()

        handle = net.get_submodule(name).register_forward_hook(keep)
        value = loss_of(net, x[i : i + 1], y[i : i + 1])
        handle.remove()
        gradients = torch.autograd.grad(value, outputs)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)
