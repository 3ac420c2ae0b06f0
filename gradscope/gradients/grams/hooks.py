"""Backward hooks of the user's, which may make the gradient of a sum another than the sum of gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Hooks:
    """What is known of them.

    Attributes:
        changed: One has put another gradient in the place of what it was given, or may do so unseen.
    """

    changed: bool = False

    def heard(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook, with a note of whether it changes anything."""

        def listening(*given: Any) -> Any:
            instead = hook(*given)
            self.changed = self.changed or instead is not None
            return instead

        return listening


@contextmanager
def hooks_heard(model: nn.Module) -> Iterator[Hooks]:
    """Notice in the forward pass which hooks will run in the backward pass, and there whether they change gradients.

    Hooks on parameters run only where a parameter's gradient is asked for, and so are taken to change it.
    """
    hooks = Hooks(any(parameter._backward_hooks for parameter in model.parameters()))
    tables = [table for m in model.modules() for table in (m._backward_hooks, m._backward_pre_hooks) if table]
    kept = [dict(table) for table in tables]
    register = Tensor.register_hook
    for table, found in zip(tables, kept, strict=True):
        table.update({number: hooks.heard(hook) for number, hook in found.items()})
    Tensor.register_hook = lambda tensor, hook: register(tensor, hooks.heard(hook))  # type: ignore[method-assign]
    try:
        yield hooks
    finally:
        Tensor.register_hook = register  # type: ignore[method-assign]
        for table, found in zip(tables, kept, strict=True):
            table.update(found)
