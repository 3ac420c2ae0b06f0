"""Hooks that a model puts on its tensors and modules, which only an ordinary backward pass runs."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradscope.instruments.junctions.graph import Node

# What stands in the graph where a module has full backward hooks.
_MODULE_HOOK = "BackwardHookFunctionBackward"


class UserHooks(TorchFunctionMode):
    """While active, notes the tensors on which hooks are put: from a graph alone they cannot be told.

    A tensor that retains its gradient has no such hook, and one run after a gradient was accumulated changes none.

    Args:
        model: The network that runs meanwhile.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._nodes: set[Any] = set()
        self._anywhere = any(_has_old_hooks(module) for module in model.modules())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            self._nodes.add(args[0].grad_fn)
        return func(*args, **(kwargs or {}))

    def on(self, nodes: Iterable[Node]) -> bool:
        """Whether a hook may change what arrives at one of these nodes."""
        return any(self._anywhere or node in self._nodes or _is_hooked(node) for node in nodes)


def _has_old_hooks(module: nn.Module) -> bool:
    """Those of `register_backward_hook`, which leave no trace in the graph."""
    return bool(module._backward_hooks) and not module._is_full_backward_hook


def _is_hooked(node: Node) -> bool:
    leaf = getattr(node, "variable", None)
    return node.name() == _MODULE_HOOK or (isinstance(leaf, Tensor) and bool(leaf._backward_hooks))
