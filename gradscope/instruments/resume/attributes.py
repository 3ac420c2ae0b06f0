"""Attributes of a model's modules, put back whatever a forward did to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import nn

# Hooks: whoever registers one removes it as well.
_LEFT_ALONE = vars(nn.Module()).keys() - {"_parameters", "_buffers", "_modules"}


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put back the attributes of all modules on leaving, as the objects they were.

    Dicts, lists and sets that are attributes get back what they held, so buffers are the same tensors again.
    What changes in place further in (a tensor's numbers, a list in a dict, an object) is not put back. torch's own
    layers fill no dict, list or set of theirs in their forward, so these are
    kept only where a layer has a hook; what a forward fills of theirs from outside counts as further in.

    Args:
        model: Any module.
    """
    modules = list(model.modules())
    found = [(vars(module), dict(vars(module))) for module in modules]
    held = [
        (attributes[name], _contents(attributes[name]))
        for attributes in (vars(module) for module in modules if _may_fill(module))
        for name in attributes.keys() - _LEFT_ALONE
        if isinstance(attributes[name], (dict, list, set))
    ]
    try:
        yield
    finally:
        for container, contents in [*held, *found]:
            if not _same(container, contents):
                _fill(container, contents)


def _may_fill(module: nn.Module) -> bool:
    return (
        not type(module).__module__.startswith("torch.nn.modules.")
        or "forward" in vars(module)
        or bool(module._forward_hooks or module._forward_pre_hooks)
    )


def _contents(container: Any) -> Any:
    if not container:
        return ()
    return dict(container) if isinstance(container, dict) else list(container)


def _same(container: Any, contents: Any) -> bool:
    """Whether it holds the same objects, which equality cannot tell of tensors."""
    if len(container) != len(contents) or not all(map(is_, container, contents)):
        return False
    return not contents or isinstance(contents, list) or all(map(is_, container.values(), contents.values()))


def _fill(container: Any, contents: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(contents)
    else:
        container.update(contents)
