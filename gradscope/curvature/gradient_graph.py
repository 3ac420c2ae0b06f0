"""The gradient of one batch's loss, kept differentiable so that vectors can be sent through it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks

from gradscope.curvature.missing_derivatives import refuse_bias_alone, second_derivative_errors
from gradscope.instruments.dense_parts import dense_parts

_PERIOD = 65537


class GradientGraph:
    """The gradient of a loss with its graph: each `product` is one backward pass through it.

    Products differentiate <gradient, v>, which is right for every layer that has a second derivative
    in torch; forward-mode routes are not (Pearlmutter 1994 for the idea; the mode matrix of torch 2.13
    finds them silently wrong through normalisation layers).

    Args:
        loss: Scalar. One that depends on none of the parameters, or linearly, has zero products.
        parameters: Tensors to differentiate with respect to.

    Raises:
        ValueError: Some operation has no second derivative in torch, or a wrong one that is known.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self.loss = loss.detach()
        self.parameters = list(parameters)
        self.gradients: Sequence[Tensor | None] = [None] * len(self.parameters)
        if loss.requires_grad:
            refuse_bias_alone(loss)
            with second_derivative_errors():
                self.gradients = grad(loss, self.parameters, create_graph=True, allow_unused=True)

    def gradient(self) -> Tensor:
        """The gradient as one vector, [P]."""
        return flat(self.gradients, self.parameters).detach()

    def add_product(self, vector: Tensor, total: Tensor, *, last: bool = False) -> None:
        """Add Hessian times `vector` to `total`, both of shape [P]; the `last` product frees the graph."""
        parts = split(vector, self.parameters)
        curved = [
            (gradient, part)
            for gradient, part in zip(self.gradients, parts, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not curved:
            return
        with second_derivative_errors():
            products = grad(
                [gradient for gradient, _ in curved],
                self.parameters,
                [part for _, part in curved],
                retain_graph=not last,
                allow_unused=True,
            )
        for part, product in zip(split(total, self.parameters), products, strict=True):
            if product is not None:
                part.add_(product)


def split(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views of a vector [P], shaped as the parameters."""
    pieces = vector.split([parameter.numel() for parameter in parameters])
    return [piece.view(parameter.shape) for piece, parameter in zip(pieces, parameters, strict=True)]


def plain_gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient as one vector, [P], without a graph of its own."""
    if not loss.requires_grad:
        return flat([None] * len(parameters), parameters)
    return flat(grad(loss, list(parameters), allow_unused=True), parameters)


def drawn(size: int, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """A normal vector, [size], of a parameter's dtype on its device, to try products with.

    Its numbers repeat after a prime number of entries: to draw each would take as long as half a gradient of a large
    network on few examples.
    """
    numbers = torch.randn(min(size, _PERIOD), generator=generator, dtype=parameter.dtype).to(parameter.device)
    return numbers.repeat(-(-size // _PERIOD))[:size]


def add_gradient(loss: Tensor, parameters: Sequence[Tensor], total: Tensor) -> None:
    """Add the gradient of a loss to `total`, [P], without a vector of its own."""
    if not loss.requires_grad:
        return
    found = grad(loss, list(parameters), allow_unused=True)
    for part, gradient in zip(split(total, parameters), found, strict=True):
        if gradient is not None:
            part.add_(gradient)


@contextmanager
def exact_derivatives(device: torch.device) -> Iterator[None]:
    """Gradients on, autocast and TF32 off, and attention by its differentiable kernel.

    The fused attention kernels have no second derivative (pytorch #116350).
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    reduced = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = reduced


@contextmanager
def saved_bytes(tensors: Iterable[Tensor], buffers: Iterable[Tensor]) -> Iterator[Callable[[], int]]:
    """Count the memory that graphs built inside keep alive.

    Args:
        tensors: Tensors that live anyway (parameters); they cost nothing.
        buffers: Tensors to be kept by value: batch normalisation saves its running statistics, and a
            graph that refers to them breaks as soon as somebody writes to them.

    Yields:
        A function that returns the bytes counted so far, each storage once.
    """
    seen = {part.untyped_storage().data_ptr() for tensor in tensors for part in dense_parts(tensor)}
    copied = {part.untyped_storage().data_ptr() for tensor in buffers for part in dense_parts(tensor)}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storages = [part.untyped_storage() for part in dense_parts(tensor)]
        if any(storage.data_ptr() in copied for storage in storages):
            tensor = tensor.clone()
            storages = [part.untyped_storage() for part in dense_parts(tensor)]
        for storage in storages:
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, as_it_is):
        yield lambda: total


def as_it_is(tensor: Tensor) -> Tensor:
    """What unpacks a tensor that `saved_bytes` counted."""
    return tensor


def flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """One tensor for each parameter as one vector, [P]; zeros where there is none."""
    return torch.cat(
        [
            torch.zeros_like(parameter).flatten() if gradient is None else gradient.to_dense().flatten()
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
    )
