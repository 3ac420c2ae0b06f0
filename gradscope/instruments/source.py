"""Which tensor counts as a network's input, and making it one that gradients can be taken at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gradscope.instruments.listen import first_tensor


@contextmanager
def source_of(model: nn.Module, inputs: Any) -> Iterator[tuple[Any, Callable[[], list[Tensor]]]]:
    """Inputs that need a gradient, and the tensors that count as sources once the forward has run.

    The first floating-point tensor of `inputs` is the source; if there is none, what an `nn.Embedding`
    makes of an integer tensor of `inputs`, and if that cannot be told, what the first embedding to run makes.
    """
    floating = [tensor for tensor in tensors_of(inputs) if tensor.is_floating_point()]
    integers = [tensor for tensor in tensors_of(inputs) if not tensor.is_floating_point()]
    if floating:
        placed = _mapped(inputs, lambda t: t.detach().requires_grad_() if t is floating[0] else t)
        first = next(tensor for tensor in tensors_of(placed) if tensor.requires_grad)
        yield placed, lambda: [first]
        return
    embedded: list[Tensor] = []
    first_to_run: list[Tensor] = []
    pointers = {tensor.data_ptr() for tensor in integers}

    def on_embedding(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        read = first_tensor(arguments)
        told = read is not None and read.data_ptr() in pointers
        if not told and first_to_run:
            return None
        source = output.detach().requires_grad_()
        (embedded if told else first_to_run).append(source)
        return source

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
    if isinstance(structure, dict):
        return {key: _mapped(value, change) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        return type(structure)(_mapped(value, change) for value in structure)
    return structure
