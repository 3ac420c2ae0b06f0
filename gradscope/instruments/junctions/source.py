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
    with _opened(model, inputs, streams=False) as (placed, sources):
        yield placed, lambda: sources()[0]


@contextmanager
def streams_of(
    model: nn.Module, inputs: Any
) -> Iterator[tuple[Any, Callable[[], tuple[list[Tensor], list[Tensor]]]]]:
    """As `source_of`, beside the sources with what else may carry a stream of its own.

    That is every other floating-point tensor of two or more dimensions, unless it is passed by a keyword (or under a
    key) with "mask" in it, and what embeddings make of integer tensors beside a floating-point source. Whether one of
    them is a second input, like the target of an encoder-decoder, is seen on the graph (`Graph`, `candidates`).
    """
    with _opened(model, inputs, streams=True) as (placed, sources):
        yield placed, sources


@contextmanager
def _opened(
    model: nn.Module, inputs: Any, streams: bool
) -> Iterator[tuple[Any, Callable[[], tuple[list[Tensor], list[Tensor]]]]]:
    tensors = tensors_of(inputs)
    main = tensors[0] if tensors and tensors[0].is_floating_point() else None
    opened = [] if main is None else [main]
    if streams:
        opened += [
            t for name, t in _named(inputs) if t.is_floating_point() and t.ndim > 1 and "mask" not in name
        ]
    leaves = {id(t): (t.clone() if t.is_inference() else t).detach().requires_grad_() for t in opened}
    placed = _mapped(inputs, lambda t: leaves[id(t)].clone() if id(t) in leaves else t) if leaves else inputs
    pointers = {tensor.data_ptr() for tensor in tensors if not tensor.is_floating_point()}
    embedded: list[Tensor] = []
    first_to_run: list[Tensor] = []

    def on_embedding(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        read = first_tensor(arguments)
        told = read is not None and read.data_ptr() in pointers
        if not told and (first_to_run or main is not None):
            return None
        # On the graph of a trace the embedding's own weights keep their gradient.
        source = output if streams and output.requires_grad else output.detach().requires_grad_()
        (embedded if told else first_to_run).append(source)
        return source.clone()

    def sources() -> tuple[list[Tensor], list[Tensor]]:
        others = [leaf for key, leaf in leaves.items() if main is None or key != id(main)]
        if main is None:
            return embedded or first_to_run, others
        return [leaves[id(main)]], others + embedded

    listening = main is None or (streams and bool(pointers))
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)] if listening else []
    handles = [module.register_forward_hook(on_embedding) for module in embeddings]
    try:
        yield placed, sources
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


def _named(structure: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """All tensors, each with the innermost key above it."""
    if isinstance(structure, Tensor):
        return [(name, structure)]
    if hasattr(structure, "items"):
        return [pair for key, value in structure.items() for pair in _named(value, str(key))]
    if isinstance(structure, str | bytes) or not hasattr(structure, "__iter__"):
        return []
    return [pair for value in structure for pair in _named(value, name)]


def _mapped(structure: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(structure, Tensor):
        return change(structure)
    if isinstance(structure, Mapping):
        return {key: _mapped(value, change) for key, value in structure.items()}
    if isinstance(structure, tuple | list):
        parts = [_mapped(value, change) for value in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    return structure
