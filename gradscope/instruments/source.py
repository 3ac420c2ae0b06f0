"""Which tensor counts as a network's input, and making it one that gradients can be taken at."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gradscope.instruments.listen import first_tensor


@contextmanager
def source_of(model: nn.Module, inputs: Any) -> Iterator[tuple[Any, Callable[[], list[Tensor]]]]:
    """Inputs that need a gradient, and the tensors that count as sources once the forward has run.

    The first tensor of `inputs` is the source. If it holds integers, the source is what `nn.Embedding`
    modules make of integer tensors of `inputs`, and if that cannot be told, what the first embedding to run
    makes. The network gets a copy of the source, which it may change in place.
    """
    tensors = tensors_of(inputs)
    if tensors and tensors[0].is_floating_point():
        given = tensors[0].clone() if tensors[0].is_inference() else tensors[0]
        leaf = given.detach().requires_grad_()
        yield _mapped(inputs, lambda t: leaf.clone() if t is tensors[0] else t), lambda: [leaf]
        return
    embedded: list[Tensor] = []
    first_to_run: list[Tensor] = []
    pointers = {tensor.data_ptr() for tensor in tensors if not tensor.is_floating_point()}

    def on_embedding(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        read = first_tensor(arguments)
        told = read is not None and read.data_ptr() in pointers
        if not told and first_to_run:
            return None
        source = output.detach().requires_grad_()
        (embedded if told else first_to_run).append(source)
        return source.clone()

    handles = [m.register_forward_hook(on_embedding) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield inputs, lambda: embedded or first_to_run
    finally:
        for handle in handles:
            handle.remove()


def tensors_of(structure: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(structure, Tensor):
        return [structure]
    values = structure.values() if hasattr(structure, "values") else structure
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        return []
    return [tensor for value in values for tensor in tensors_of(value)]


def _mapped(structure: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(structure, Tensor):
        return change(structure)
    if isinstance(structure, Mapping):
        return {key: _mapped(value, change) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        parts = [_mapped(value, change) for value in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    return structure
