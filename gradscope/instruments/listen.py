"""Hearing what passes through a network's sites while somebody else drives it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from gradscope.instruments.sites import Site


class Heard(NamedTuple):
    """Where and when something was heard.

    `depth` counts the sites in the order in which they first ran, from 0; `call` counts the runs of one
    site since listening began (a re-used module has several in one forward pass).
    """

    site: str
    depth: int
    call: int


Listener = Callable[[Heard, Tensor], None]


@contextmanager
def on_output(at: Sequence[Site], listener: Listener) -> Iterator[None]:
    """Call `listener(heard, output)` whenever a site has run, with the first tensor of its output.

    The listener must not change the tensor. Hooks are taken away on leaving, by themselves only.
    """
    order: dict[str, int] = {}
    calls: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def forward_hook(module: nn.Module, arguments: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is None:
                return
            depth = order.setdefault(name, len(order))
            call = calls[name] = calls.get(name, -1) + 1
            listener(Heard(name, depth, call), tensor)

        return forward_hook

    with ExitStack() as stack:
        for site in at:
            stack.callback(site.module.register_forward_hook(hook(site.name)).remove)
        yield


@contextmanager
def on_gradient(at: Sequence[Site], listener: Listener) -> Iterator[None]:
    """Call `listener(heard, gradient)` with the gradient of each site's output, in backward order.

    A full backward hook on the module forbids in-place operations on its output (an in-place ReLU, a
    residual `+=`), so the output tensor is hooked instead. Outputs that need no gradient are not heard.
    """
    with ExitStack() as stack:

        def attach(heard: Heard, output: Tensor) -> None:
            if output.requires_grad:
                handle = output.register_hook(lambda gradient: listener(heard, gradient.detach()))
                stack.callback(handle.remove)

        with on_output(at, attach):
            yield


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in a module's output: itself, or the first of a tuple, list, dict or dataclass."""
    if isinstance(output, Tensor):
        return output
    values = (
        output.values() if hasattr(output, "values") else output if isinstance(output, tuple | list) else ()
    )
    return next((tensor for value in values if (tensor := first_tensor(value)) is not None), None)
